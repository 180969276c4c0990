"""Level 0: the border between the owner's files and the engine, `packages/fastapi-realtime`."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import ALL_OFF, ALL_ON, PACKAGE, WITH_REDIS, Answers, project_params
from .test_rendering import files, owners_files, package

SOURCE = PACKAGE / "src/fastapi_realtime"
PUBLIC = ("", ".rooms", ".rooms.redis", ".testing", ".tokens")
"""Modules that owners import from, below `fastapi_realtime`."""
MODULES = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}

DISTRIBUTIONS = {
    "dotenv": "python-dotenv",
    "jwt": "pyjwt",
    "opentelemetry": "opentelemetry-api",
    "pydantic_core": "pydantic-core",
    "pydantic_settings": "pydantic-settings",
}
"""Where a module is imported by another name than that of its distribution."""
EXTRAS = {"jwt": ("tokens/",), "redis": ("rooms/redis/",)}
"""The modules that need an extra."""

DOCUMENTED = {
    "fastapi": """
        encoders exception_handlers exceptions openapi.utils requests responses
    """,
    "starlette": """
        applications exceptions middleware requests routing types websockets
    """,
    "uvicorn": "",
    "websockets": "exceptions sync.client typing",
}
"""Modules of libraries that may be imported anywhere; all others, of each library, in one module."""
INTERNALS = {
    "fastapi": "fastapi_internals.py",
    "starlette": "fastapi_internals.py",
    "uvicorn": "server/uvicorn_internals.py",
    "websockets": "server/uvicorn_internals.py",
}
ATTRIBUTES = {
    "user_middleware": "fastapi_internals.py",
    "lifespan_context": "fastapi_internals.py",
    "application_state": "fastapi_internals.py",
    "exception_handlers": "fastapi_internals.py",
}
"""Undocumented attributes, and the only module that uses each."""


def imports(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Yield each imported module, with dots if it is relative, and the names from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            yield "." * node.level + (node.module or ""), names


def engine_imports() -> Iterator[tuple[str, str]]:
    """Yield the path of each module of the engine, and each absolute module that it imports."""
    for path, file in MODULES.items():
        for module, _ in imports(ast.parse(file.read_text("utf-8"))):
            if not module.startswith("."):
                yield path, module


def metadata() -> dict[str, Any]:
    """Return what the engine's `pyproject.toml` says of it."""
    project: dict[str, Any] = tomllib.loads((PACKAGE / "pyproject.toml").read_text("utf-8"))[
        "project"
    ]
    return project


def names(requirements: list[str]) -> dict[str, str]:
    """Return the bounds of requirements, by the names of distributions."""
    found = [re.match(r"([\w-]+)(?:\[.*?\])?(.*)", each) for each in requirements]
    return {each[1]: each[2] for each in found if each}


@project_params()
def test_the_engine_is_whole_and_the_same_bytes_in_every_project(
    project: Path, answers: Answers
) -> None:
    inside = project / "packages"
    rendered = {
        path.relative_to(inside): path.read_bytes() for path in inside.rglob("*") if path.is_file()
    }
    source = PACKAGE.parent
    assert rendered == {
        path.relative_to(source): path.read_bytes() for path in source.rglob("*") if path.is_file()
    }


def test_no_file_of_the_engine_holds_a_template_tag_in_its_text_or_name() -> None:
    for path in PACKAGE.rglob("*"):
        assert not re.search(r"[{}%]", path.relative_to(PACKAGE).as_posix()), path
        if path.is_file():
            assert not re.search(r"cookiecutter|\{%|\{\{ ", path.read_text("utf-8")), path


def test_the_engine_imports_nothing_but_what_it_declares_and_bounds() -> None:
    project = metadata()
    declared = names(project["dependencies"])
    extras = {each: names(project["optional-dependencies"][each]) for each in EXTRAS}
    used = set()
    for path, module in engine_imports():
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue
        name = DISTRIBUTIONS.get(top, top)
        allowed = {*declared}
        for extra, folders in EXTRAS.items():
            allowed |= {*extras[extra]} if path.startswith(folders) else set()
        assert name in allowed, f"{path} imports {module}"
        used.add(name)
    everything = declared | extras["jwt"] | extras["redis"]
    assert used == everything.keys()
    without_upper_bound = {name for name, bounds in everything.items() if "<" not in bounds}
    assert without_upper_bound == {"cryptography", "fastapi", "pydantic-core"}  # bound by others
    assert everything["uvicorn"] == ">=0.54,<0.55"
    assert everything["websockets"] == ">=17,<18"


def test_internals_of_each_library_are_imported_in_one_module() -> None:
    for path, module in engine_imports():
        top, _, rest = module.partition(".")
        if rest and top in DOCUMENTED and rest not in DOCUMENTED[top].split():
            assert path == INTERNALS[top], f"{path} imports {module}"
    for path, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
                assert path == ATTRIBUTES[node.attr], f"{path} uses .{node.attr}"


@project_params()
def test_the_owners_files_import_public_names_alone(project: Path, answers: Answers) -> None:
    public = {f"fastapi_realtime{each}": public_names(each) for each in PUBLIC}
    for path, text in owners_files(project).items():
        if not path.endswith((".py", ".md")):
            continue
        code = text if path.endswith(".py") else "\n".join(re.findall(IMPORT, text))
        for module, found in imports(ast.parse(code)):
            if module.partition(".")[0] == "fastapi_realtime":
                assert module in public, f"{path} imports {module}"
                assert {*found} <= public[module], f"{path}: {module} {found}"


IMPORT = re.compile(r"^from fastapi_realtime\S* import [\w, ]+$", re.MULTILINE)


def public_names(module: str) -> set[str]:
    """Return the names in `__all__` of a module below `fastapi_realtime`."""
    path = module.removeprefix(".").replace(".", "/")
    file = MODULES.get(f"{path}.py") or MODULES[f"{path}/__init__.py".removeprefix("/")]
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return {*ast.literal_eval(node.value)}
    raise LookupError(module)


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_there(module: str) -> None:
    script = (
        f"import fastapi_realtime{module} as m; print(*[n for n in m.__all__ if not hasattr(m, n)])"
    )
    assert run_python(SOURCE.parent, script) == ""


@project_params([ALL_ON, ALL_OFF, *WITH_REDIS])
def test_the_project_requires_the_engine_that_comes_with_it(
    project: Path, answers: Answers
) -> None:
    version = metadata()["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+\+vendored", version)
    settings = tomllib.loads(files(project)["pyproject.toml"])
    jwt, redis = answers["auth"] == "jwt", answers["broker"] == "redis"
    extras = ",".join([*["jwt"] * jwt, *["redis"] * redis])
    required = f"fastapi-realtime{f'[{extras}]' if extras else ''}=={version}"
    assert required in settings["project"]["dependencies"]
    source = {"path": "packages/fastapi-realtime", "editable": True}
    assert settings["tool"]["uv"] == {"sources": {"fastapi-realtime": source}}
    changes = (PACKAGE / "CHANGELOG.md").read_text("utf-8")
    assert f"## {version.partition('+')[0]}" in changes


@project_params([ALL_ON, ALL_OFF])
def test_the_projects_tools_leave_the_engine_alone(project: Path, answers: Answers) -> None:
    tools = tomllib.loads(files(project)["pyproject.toml"])["tool"]
    assert tools["coverage"]["run"]["source_pkgs"] == [package(project)]
    assert tools["ruff"]["extend-exclude"] == ["packages"]
    assert tools["ty"]["src"]["include"] == ["src", "tests"]
    assert tools["pytest"]["ini_options"]["testpaths"] == ["tests"]


@project_params([ALL_ON, *WITH_REDIS, ALL_OFF])
def test_importing_any_module_reads_no_setting(project: Path, answers: Answers) -> None:
    name = package(project)
    own = [path for path in files(project) if re.fullmatch(r"src/.*\.py", path)]
    engine = [f"fastapi_realtime/{path}" for path in MODULES]
    paths = [
        *own,
        *(path for path in engine if answers["broker"] == "redis" or "redis" not in path),
    ]
    modules = [
        re.sub(r"^src/|/__init__\.py$|\.py$", "", path).replace("/", ".") for path in sorted(paths)
    ]
    script = "\n".join(f"import {module}" for module in modules)
    assert run_python(project, script, APP_PORT="not a port") == ""
    with pytest.raises(subprocess.CalledProcessError) as failure:
        run_python(project, f"from {name}.main import app", APP_PORT="not a port")
    assert "SettingsError: These settings do not work" in failure.value.stderr


def run_python(folder: Path, script: str, **environment: str) -> str:
    """Run a script in a process of its own, and return what it prints."""
    path = os.pathsep.join([str(folder / "src"), str(SOURCE.parent)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={"PYTHONPATH": path, "PYTHONPYCACHEPREFIX": str(sys.pycache_prefix), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
