"""Level 1: every project passes its own tests, lint, format and type check as rendered."""

from pathlib import Path

from .conftest import (
    ALL_OFF,
    ALL_ON,
    COVERING,
    PROJECTS,
    Answers,
    project_params,
    run_module,
)

# The package's name is in many lines, which must not become too long.
LONG_NAMES: list[Answers] = [
    {**ALL_ON, "project_slug": "x" * 50, "auth": auth} for auth in ("none", "jwt")
]


@project_params([ALL_ON, ALL_OFF, *COVERING])
def test_it_passes_its_own_tests_which_run_every_line(project: Path, answers: Answers) -> None:
    run_module("pytest", "-n", "2", "-p", "no:cacheprovider", "--cov", cwd=project)


@project_params([*PROJECTS, *LONG_NAMES])
def test_it_passes_its_own_checks(project: Path, answers: Answers) -> None:
    run_module("ruff", "check", "--no-cache", ".", cwd=project)
    run_module("ruff", "format", "--no-cache", "--check", ".", cwd=project)
    run_module("ty", "check", "--error-on-warning", cwd=project)
