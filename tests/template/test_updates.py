"""Projects that are updated later, by Copier or cruft, to a new version or to other answers."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import copier
import pytest
import yaml

from ..conftest import COVERING, TEMPLATE, Answers, Bake, project_params, run, run_module
from .test_documents import follow
from .test_rendering import files

ENGINE = "packages/fastapi-realtime"
ANSWERS = ".copier-answers.yml"


def git(*arguments: str, cwd: Path) -> None:
    """Run git, as somebody."""
    who = ("-c", "user.name=Zoe", "-c", "user.email=zoe@example.com", "-c", "commit.gpgsign=false")
    run("git", *who, *arguments, cwd=cwd)


def commit(folder: Path) -> Path:
    """Commit everything in a folder, which becomes a repository."""
    git("init", "--quiet", "--initial-branch=main", cwd=folder)
    git("add", "--all", cwd=folder)
    git("commit", "--quiet", "--allow-empty", "--message=x", cwd=folder)
    return folder


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of this template with two versions, the second of which changes the engine."""
    template = tmp_path_factory.mktemp("repository") / "template"
    for name in ("hooks", "{{cookiecutter.project_slug}}"):
        shutil.copytree(TEMPLATE / name, template / name)
    for name in ("cookiecutter.json", "copier.yml"):
        shutil.copy(TEMPLATE / name, template)
    git("tag", version_of(TEMPLATE), cwd=commit(template))
    engine = template / "{{cookiecutter.project_slug}}" / ENGINE
    (engine / "src/fastapi_realtime/fresh.py").write_text('"""New."""\n', "utf-8")
    (engine / "src/fastapi_realtime/handshake.py").unlink()
    (engine / "README.md").write_text("# Changed\n", "utf-8")
    git("tag", "v99.0.0", cwd=commit(template))
    git("checkout", "--quiet", version_of(TEMPLATE), cwd=template)  # for cookiecutter
    return template


@pytest.fixture
def made(template: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a project from the first version, with what its owner added as README.md says."""

    def made(**answers: str) -> Path:
        given = [f"{key}={value}" for key, value in answers.items()]
        options = ("--no-input", "--default-config")
        run_module("cookiecutter", str(template), *options, *given, cwd=tmp_path)
        project = tmp_path / "my-websocket-app"
        commit(project)
        follow(project)
        with (project / "README.md").open("a", encoding="utf-8") as readme:
            readme.write("\nOur own words.\n")
        for file, line in own_code(project):
            text = file.read_text("utf-8")
            file.write_text(text.replace(line.partition("  #")[0], line), "utf-8")
        return commit(project)

    return made


def own_code(project: Path) -> list[tuple[Path, str]]:
    """Return files that their owner edits, and a line of each as it is then."""
    source = project / "src/my_websocket_app"
    lines = {
        "endpoints/echo.py": "    async for message in connection:  # ours",
        "policy.py": "    return False  # ours",
    }
    return [(source / file, line) for file, line in lines.items() if (source / file).exists()]


def version_of(template: Path) -> str:
    """Return the version that a project records when cookiecutter makes it."""
    text = (template / "{{cookiecutter.project_slug}}" / ANSWERS).read_text("utf-8")
    return text.partition('default("')[2].partition('"')[0]


def update(project: Path, *arguments: str) -> None:
    """Run the command that docs/updating.md names."""
    run_module("copier", "update", "--defaults", *arguments, cwd=project)


def test_copiers_questions_are_those_of_cookiecutter() -> None:
    copier_yml = runpy.run_path(str(TEMPLATE / ".ci/copier.py"))["copier_yml"]
    context = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
    assert (TEMPLATE / "copier.yml").read_text("utf-8") == copier_yml(context)


@project_params(COVERING)
def test_copier_makes_the_same_files(
    template: Path, project: Path, answers: Answers, tmp_path: Path
) -> None:
    expected = files(project)
    data = yaml.safe_load(expected.pop(ANSWERS))
    made, version = tmp_path / project.name, version_of(TEMPLATE)
    copier.run_copy(str(template), made, data, vcs_ref=version, defaults=True, quiet=True)
    actual = files(made)
    recorded = yaml.safe_load(actual.pop(ANSWERS))
    assert actual == expected
    assert recorded == data | {"_src_path": str(template)}
    typed = {key: str(answers[key]).replace("{{ '{{ 7*7 }}' }}", "{{ 7*7 }}") for key in answers}
    assert {key: str(data[key]) for key in answers} == typed


@pytest.mark.parametrize(
    "data",
    [
        {"project_slug": "class"},
        {"project_slug": "FastAPI"},
        {"project_slug": "a\n"},
        {"project_slug": "../a"},
        {"project_name": " "},
        {"project_name": "Class"},
        {"description": "a\nb"},
        {"author_name": "\x1b[31m"},
    ],
    ids=str,
)
def test_copier_refuses_answers_that_cannot_work(
    template: Path, tmp_path: Path, data: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="Validation error for question"):
        copier.run_copy(str(template), tmp_path / "made", data, defaults=True, quiet=True)
    assert not (tmp_path / "made").exists()


def test_an_update_brings_the_engine_and_keeps_what_is_the_owners(
    template: Path, made: Callable[..., Path], tmp_path: Path
) -> None:
    project = made()
    before = files(project)
    update(project)
    after = files(project)
    copier.run_copy(str(template), tmp_path / "fresh", defaults=True, quiet=True)
    fresh = files(tmp_path / "fresh")
    for path in (before.keys() | after.keys()) - {ANSWERS}:
        expected = fresh if path.startswith("packages/") else before
        assert after.get(path) == expected.get(path), path
    assert yaml.safe_load(after[ANSWERS])["_commit"] == "v99.0.0"


def test_an_edit_of_the_engine_is_a_conflict_and_no_loss(made: Callable[..., Path]) -> None:
    project = made()
    readme = project / ENGINE / "README.md"
    readme.write_text("# Ours\n", "utf-8")
    commit(project)
    update(project)
    text = readme.read_text("utf-8")
    assert "<<<<<<<" in text
    assert "# Ours\n" in text
    assert "# Changed\n" in text


@pytest.mark.parametrize(
    ("given", "later"),
    [
        ({}, {"broker": "redis", "auth": "jwt"}),
        (
            {"auth": "jwt", "include_broadcast": "false"},
            {"include_broadcast": "true", "include_demo": "false"},
        ),
    ],
    ids=str,
)
def test_answers_can_change_later(
    made: Callable[..., Path], bake: Bake, given: dict[str, str], later: dict[str, str]
) -> None:
    project = made(**given)
    data = [f"--data={key}={value}" for key, value in later.items()]
    update(project, "--vcs-ref=:current:", *data)
    after = files(project)
    assert not [path for path, text in after.items() if re.search("^<<<<<<<", text, re.MULTILINE)]
    edited = [file for file, line in own_code(project) if line in file.read_text("utf-8")]
    assert len(edited) == 1 + ("auth" in given)
    assert "Our own words." in after["README.md"]
    asked_for = bake(**as_booleans(given | later)).project_path
    written = follow(asked_for)
    own = {ANSWERS, "README.md", "endpoints/echo.py", "main.py", "policy.py", *written}
    for path, text in files(asked_for).items():
        if path.removeprefix("src/my_websocket_app/") not in own:
            assert after[path] == text, path
    ours = [f"--ignore={path}" for path in written if path.startswith("tests/")]  # lack a token
    run_module("pytest", "-p", "no:cacheprovider", *ours, cwd=project)


def test_cruft_updates_a_project(template: Path, tmp_path: Path) -> None:
    cruft = (sys.executable, "-c", "from cruft._cli import app; app()")
    newest = ("--checkout", "v99.0.0")
    run(*cruft, "create", template, "--no-input", cwd=tmp_path)
    project = commit(tmp_path / "my-websocket-app")
    assert subprocess.run([*cruft, "check", *newest], cwd=project, check=False).returncode == 1
    run(*cruft, "update", "--skip-apply-ask", *newest, cwd=project)
    run(*cruft, "check", *newest, cwd=project)
    assert (project / ENGINE / "README.md").read_text("utf-8") == "# Changed\n"


def as_booleans(answers: dict[str, str]) -> Answers:
    """Return answers as tests give them to a template."""
    return {key: {"true": True, "false": False}.get(value, value) for key, value in answers.items()}


def test_a_release_is_what_new_projects_are_updated_from(tmp_path: Path) -> None:
    for name in (".ci/release.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(TEMPLATE / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n- New.\n", "utf-8")
    answers = "{{cookiecutter.project_slug}}/" + ANSWERS
    (tmp_path / answers).parent.mkdir()
    shutil.copy(TEMPLATE / answers, tmp_path / answers)
    git("config", "user.name", "Zoe", cwd=commit(tmp_path))
    git("config", "user.email", "zoe@example.com", cwd=tmp_path)

    def release(version: str) -> str:
        command = (sys.executable, ".ci/release.py", version)
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
        return done.stderr

    assert "like: uv run" in release("2")
    (tmp_path / "new").touch()
    assert release("98.0.0") == "commit your changes first\n"
    (tmp_path / "new").unlink()
    assert release("98.0.0") == ""
    git("diff", "--exit-code", "v98.0.0", cwd=tmp_path)
    assert version_of(tmp_path) == "v98.0.0"
    assert 'version = "98.0.0"' in (tmp_path / "pyproject.toml").read_text("utf-8")
    assert "## Unreleased\n\n## 98.0.0 - 2" in (tmp_path / "CHANGELOG.md").read_text("utf-8")
    assert "a tag v98.0.0 already" in release("98.0.0")
    assert "no changes under Unreleased" in release("98.0.1")
