"""Level 0: the border between the owner's files and the engine, `realtime/`."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import ALL_OFF, ALL_ON, TEMPLATE, WITH_REDIS, Answers, project_params
from .test_rendering import files, package

MAX_LINES = 30
"""Lines of a function, without its docstring."""
MAX_NESTING = 2
BLOCKS = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.With,
    ast.AsyncWith,
    ast.Try,
    ast.Match,
)


def modules(project: Path, folder: str) -> dict[str, ast.Module]:
    """Return the Python files below a folder, by their dotted names."""
    return {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): ast.parse(text)
        for path, text in files(project).items()
        if path.startswith(f"{folder}/") and path.endswith(".py")
    }


def imports(project: Path, folder: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield importing module, imported module and names, all dotted and absolute."""
    source = files(project)
    for name, tree in modules(project, folder).items():
        is_package = f"{name.replace('.', '/')}/__init__.py" in source
        parts = name.removeprefix("src.").split(".")
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from ((name, alias.name, []) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = parts[: len(parts) - node.level + is_package] if node.level else []
                names = [alias.name for alias in node.names]
                yield name, ".".join([*base, *filter(None, [node.module])]), names


def public_names(project: Path) -> dict[str, set[str]]:
    """Return the names in `__all__` of the engine and of its optional parts."""
    engine = f"src.{package(project)}.realtime"
    found: dict[str, set[str]] = {}
    for name, tree in modules(project, engine.replace(".", "/")).items():
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                found[name.removeprefix("src.")] = set(ast.literal_eval(node.value))
    return found


@project_params()
def test_the_engine_imports_nothing_of_the_project_outside_itself(
    project: Path, answers: Answers
) -> None:
    engine = f"{package(project)}.realtime"
    for importer, module, names in imports(project, f"src/{engine.replace('.', '/')}"):
        if module.partition(".")[0] == package(project):
            assert f"{module}.".startswith(f"{engine}."), f"{importer} imports {module} {names}"


def test_no_file_of_the_engine_holds_a_template_tag_but_the_packages_name_in_tests() -> None:
    project = TEMPLATE / "{{cookiecutter.project_slug}}"
    for path in project.rglob("*"):
        inside = path.relative_to(project).parts
        if path.is_file() and "realtime" in inside:
            text = path.read_text("utf-8")
            if inside[0] == "tests":
                text = text.replace("{{ cookiecutter.__package_name }}", "")
            assert not re.search(r"\{\{ *cookiecutter|\{%|\{#", text), path


@project_params()
def test_the_engine_is_the_same_in_every_project(project: Path, answers: Answers) -> None:
    source, name = TEMPLATE / "{{cookiecutter.project_slug}}", package(project)
    templates = {
        re.sub(r"\{%.*?%\}", "", path.relative_to(source).as_posix()).replace(
            "{{cookiecutter.__package_name}}", name
        ): path.read_text("utf-8")
        for path in source.rglob("*")
        if path.is_file() and "realtime" in path.parts
    }
    for path, text in files(project).items():
        if "realtime" in path.split("/"):
            assert text == templates[path].replace("{{ cookiecutter.__package_name }}", name), path


@project_params()
def test_the_owners_files_import_public_names_alone(project: Path, answers: Answers) -> None:
    public = public_names(project)
    owners = [*imports(project, "src"), *imports(project, "tests"), *imports(project, "examples")]
    for importer, module, names in owners:
        inside = "realtime" in importer.split(".")
        if not inside and f".{module}.".find(f".{package(project)}.realtime.") == 0:
            assert set(names) <= public.get(module, set()), f"{importer} imports {module} {names}"


@project_params([ALL_ON, ALL_OFF, WITH_REDIS[0]])
def test_public_names_are_listed_and_there(project: Path, answers: Answers) -> None:
    for module, names in public_names(project).items():
        script = f"import {module} as m; print(*[n for n in m.__all__ if not hasattr(m, n)])"
        assert run_python(project, script) == ""
        assert sorted(names) == sorted(set(names))


@project_params()
def test_the_engines_tests_need_nothing_of_the_owners(project: Path, answers: Answers) -> None:
    name = package(project)
    for importer, module, names in imports(project, "tests/realtime"):
        if module.partition(".")[0] == name:
            inside = f"{module}.".startswith(f"{name}.realtime.")
            assert inside or (module, names) == (name, ["realtime"]), f"{importer} {module} {names}"
        if module.partition(".")[0] == "tests":
            assert f"{module}.".startswith("tests.realtime."), f"{importer} {module} {names}"


@project_params([ALL_ON])
def test_uvicorn_is_touched_in_one_folder(project: Path, answers: Answers) -> None:
    server = f"src.{package(project)}.realtime.server."
    for importer, module, _ in imports(project, "src"):
        if module.partition(".")[0] == "uvicorn":
            assert importer.startswith(server), importer


@project_params([ALL_ON, ALL_OFF])
def test_uvicorn_has_an_upper_bound(project: Path, answers: Answers) -> None:
    assert re.search(r'"uvicorn\[standard\]>=0\.(\d+),<0\.(\d+)"', files(project)["pyproject.toml"])


@project_params([ALL_ON, *WITH_REDIS, ALL_OFF])
def test_importing_any_module_but_main_reads_no_setting(project: Path, answers: Answers) -> None:
    names = [name.removeprefix("src.") for name in modules(project, "src")]
    others = [name for name in names if not name.endswith(".main")]
    assert len(names) == len(others) + 1
    script = "\n".join([f"import {name}" for name in others])
    assert run_python(project, script, APP_PORT="not a port") == ""
    with pytest.raises(subprocess.CalledProcessError) as failure:
        run_python(project, f"import {package(project)}.main", APP_PORT="not a port")
    assert "SettingsError: These settings do not work" in failure.value.stderr


def run_python(project: Path, script: str, **environment: str) -> str:
    """Run a script in a process of its own, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=project,
        env={"PYTHONPATH": "src", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def nesting(node: ast.AST) -> int:
    """Return how deep blocks are nested in a function; `elif` is no block of its own."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            is_elif = (
                isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
            )
            deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


@project_params([ALL_ON, *WITH_REDIS])
def test_functions_are_short_and_flat(project: Path, answers: Answers) -> None:
    for name, tree in modules(project, "src").items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = (ast.get_docstring(node, clean=False) or "").splitlines()
                lines = (node.end_lineno or 0) - node.lineno + 1 - len(docstring)
                assert lines <= MAX_LINES, f"{name}.{node.name} has {lines} lines"
                assert nesting(node) <= MAX_NESTING, f"{name}.{node.name} is nested too deep"


@project_params([{**ALL_OFF, "include_echo": True}])
def test_an_owner_of_the_echo_endpoint_reads_little(project: Path, answers: Answers) -> None:
    sizes = {
        path: len(text.splitlines())
        for path, text in files(project).items()
        if path.startswith("src/") and "realtime" not in path
    }
    assert sum(sizes.values()) < 250
    assert not any("room" in path for path in files(project))


@project_params([ALL_ON])
def test_the_owners_tests_are_short(project: Path, answers: Answers) -> None:
    tests = [text for path, text in files(project).items() if re.fullmatch(r"tests/\w+\.py", path)]
    assert sum(len(text.splitlines()) for text in tests) < 500
