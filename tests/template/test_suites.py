"""Level 1: every project passes its tests, lint, format and type check as rendered."""

from pathlib import Path

from ..conftest import INSTALLED, PACKAGE, PROJECTS, TEMPLATE, Answers, project_params, run_module

# The package's name is in many lines, whose format must not depend on its length.
LONG_NAMES: list[Answers] = [
    {**INSTALLED[0], "project_slug": "x" * 50, "auth": auth, "broker": broker}
    for auth, broker in (("none", "memory"), ("jwt", "redis"))
]


@project_params([answers for answers in PROJECTS if answers not in INSTALLED])
def test_it_passes_its_tests_which_run_every_line(own_project: Path, answers: Answers) -> None:
    run_module("pytest", "--cov", "-p", "no:cacheprovider", cwd=own_project)


@project_params([*PROJECTS, *LONG_NAMES])
def test_it_passes_its_own_checks(project: Path, answers: Answers) -> None:
    run_module("ruff", "check", "--no-cache", ".", cwd=project)
    run_module("ruff", "format", "--no-cache", "--check", ".", cwd=project)
    engine = str(PACKAGE / "src")
    run_module("ty", "check", "--error-on-warning", "--extra-search-path", engine, cwd=project)


def test_the_engine_passes_the_templates_own_checks() -> None:
    tests = [str(TEMPLATE / "tests" / name) for name in ("engine", "browser")]
    config = ("--no-cache", "--config", "pyproject.toml")
    run_module("ruff", "check", *config, str(PACKAGE), cwd=TEMPLATE)
    run_module("ruff", "format", "--check", *config, str(PACKAGE), cwd=TEMPLATE)
    source = str(PACKAGE / "src")
    search = ("--error-on-warning", "--extra-search-path", source)
    run_module("ty", "check", *search, source, *tests, cwd=TEMPLATE)
