"""Mistakes that a project's own suite must notice: made here in a rendered project, one at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import Bake

BROKEN_ENDPOINT = """
from my_websocket_app.realtime import Admitted

from .realtime.conftest import serve as serve
from .realtime.serving import Serve, connect, echo_app, receive_all


def test_served(serve: Serve) -> None:
    app = echo_app()

    @app.websocket("/broken")
    async def broken(connection: Admitted) -> None:
        await connection.send("hello")
        raise LookupError

    with connect(f"{serve(app)}/broken") as client:
        receive_all(client)
"""
OPEN_ROUTE = """
from fastapi import WebSocket


@router.websocket("/open")
async def not_admitted(websocket: WebSocket) -> None:
    await websocket.accept()
"""


def suite(project: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """Run some of a project's tests."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"tests/{tests}"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_endpoint_that_raises_fails_the_test_that_serves_it(bake: Bake) -> None:
    project = bake().project_path
    (project / "tests/test_mistake.py").write_text(BROKEN_ENDPOINT, "utf-8")
    done = suite(project, "test_mistake.py")
    assert "Exception in ASGI application" in done.stdout
    assert "1 passed, 1 error" in done.stdout


@pytest.mark.parametrize("admitted", [False, True])
def test_a_websocket_route_without_admission_fails_the_suite(bake: Bake, admitted: bool) -> None:
    project = bake().project_path
    endpoint = project / "src/my_websocket_app/endpoints/echo.py"
    mistake = "" if admitted else OPEN_ROUTE
    endpoint.write_text(endpoint.read_text("utf-8") + mistake, "utf-8")
    done = suite(project, "test_routes.py")
    assert (done.returncode == 0) == admitted
    assert ("'/open'" in done.stdout) != admitted
