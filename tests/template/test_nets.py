"""Mistakes that a project's own suite must notice: made here in a rendered project, one at a time."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import Bake

OPEN_ROUTE = """
from fastapi import WebSocket


@router.websocket("/open")
async def not_admitted(websocket: WebSocket) -> None:
    await websocket.accept()
"""


def suite(project: Path, tests: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    """Run some of a project's tests, with modules of these folders instead of the installed ones."""
    path = os.pathsep.join([*map(str, folders), os.environ["PYTHONPATH"]])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", f"tests/{tests}"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("admitted", [False, True])
def test_a_websocket_route_without_admission_fails_the_suite(bake: Bake, admitted: bool) -> None:
    project = bake().project_path
    endpoint = project / "src/my_websocket_app/endpoints/echo.py"
    mistake = "" if admitted else OPEN_ROUTE
    endpoint.write_text(endpoint.read_text("utf-8") + mistake, "utf-8")
    done = suite(project, "test_main.py")
    assert (done.returncode == 0) == admitted
    assert ("'/open'" in done.stdout) != admitted


RENAMED = [
    ("uvicorn", "on_headers_complete"),
    ("uvicorn", "_should_upgrade"),
    ("uvicorn", "transport"),
    ("websockets", "apply_mask"),
    ("starlette", "user_middleware"),
]
"""Names that a new release of a library might change, of those that the engine uses."""


@pytest.mark.slow
@pytest.mark.parametrize(("library", "name"), RENAMED)
def test_a_library_that_has_renamed_something_fails_the_test_of_a_real_server(
    bake: Bake, tmp_path: Path, library: str, name: str
) -> None:
    found = importlib.util.find_spec(library)
    assert found is not None
    (installed,) = found.submodule_search_locations or ()
    shutil.copytree(installed, tmp_path / library, ignore=shutil.ignore_patterns("*.pyc", "*.so"))
    renamed = 0
    for path in (tmp_path / library).rglob("*.py"):
        text, count = re.subn(rf"\b{name}\b", f"{name}_", path.read_text("utf-8"))
        path.write_text(text, "utf-8")
        renamed += count
    assert renamed
    assert suite(bake().project_path, "test_served.py", tmp_path).returncode != 0
