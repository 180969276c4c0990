"""Level 1: every project passes its tests, lint, format and type check as rendered."""

from pathlib import Path

from ..conftest import (
    ALL_OFF,
    ALL_ON,
    INSTALLED,
    PROJECTS,
    Answers,
    project_params,
    run_module,
)

ENGINES: list[Answers] = [
    ALL_ON,
    {**ALL_ON, "auth": "none", "include_demo": False},
    {**ALL_OFF, "include_echo": True, "auth": "jwt"},
]
"""A project for each set of files that the engine can have, besides those of `INSTALLED`."""

SEEN_ABOVE = [f"--ignore=tests/web/{name}.py" for name in ("test_client", "test_room_page")]
"""Tests of the browser's part of rooms, which are the same in every project that has them."""

# The package's name is in many lines, whose format must not depend on its length.
LONG_NAMES: list[Answers] = [
    {**ALL_ON, "project_slug": "x" * 50, "auth": auth, "broker": broker}
    for auth, broker in (("none", "memory"), ("jwt", "redis"))
]


@project_params(ENGINES)
def test_it_passes_all_tests_which_run_every_line(project: Path, answers: Answers) -> None:
    run_module("pytest", "-n", "2", "-p", "no:cacheprovider", "--cov", "--maxfail=3", cwd=project)


@project_params([answers for answers in PROJECTS if answers not in [*ENGINES, *INSTALLED]])
def test_it_passes_its_owners_tests(project: Path, answers: Answers) -> None:
    own = ("--ignore", "tests/realtime", *SEEN_ABOVE)
    run_module("pytest", *own, "-p", "no:cacheprovider", cwd=project)


@project_params([*PROJECTS, *LONG_NAMES])
def test_it_passes_its_own_checks(project: Path, answers: Answers) -> None:
    run_module("ruff", "check", "--no-cache", ".", cwd=project)
    run_module("ruff", "format", "--no-cache", "--check", ".", cwd=project)
    run_module("ty", "check", "--error-on-warning", cwd=project)
