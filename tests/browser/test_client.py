"""client.js in Node, against real servers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from {{ cookiecutter.__package_name }}.application import create_app
from fastapi_realtime import EngineDep

{% if cookiecutter.auth == "jwt" %}
from ..conftest import bearer, settings
{% else %}
from ..conftest import settings
{% endif %}
from ..realtime.conftest import serve as serve
from ..realtime.serving import NO_RATE_LIMIT, Serve

(WEB,) = Path(__file__).parents[2].glob("src/*/web")
SCRIPT = Path(__file__).with_name("client.test.mjs")


def node() -> list[str]:
    """Return the command for a Node with WebSockets; skip without, but not in CI on Linux."""
    command = shutil.which("node")
    version = [0, 0]
    if command is not None:
        said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
        version = [int(part) for part in said.stdout.lstrip("v").split(".")[:2]]
    if command is None or version < [20, 11]:
        is_demanded = os.environ.get("CI") == "true" and sys.platform == "linux"
        assert not is_demanded, "there is no Node 20.11 or later"
        pytest.skip("there is no Node 20.11 or later")
    return [command] if version >= [22, 0] else [command, "--experimental-websocket"]


def app_that_breaks(**changes: Any) -> FastAPI:
    """The application, with routes that end connections."""
    app = create_app(settings(**NO_RATE_LIMIT | {"drain_seconds": 1} | changes))

    @app.post("/test/close/{code}")
    async def close(engine: EngineDep, code: int) -> None:
        for connection in [*engine.connections]:
            await connection.close(code, "closed by the test")

    @app.post("/test/stop")
    async def stop(engine: EngineDep) -> None:
        await engine.drain.run()

    return app


def token(subject: str) -> str:
    """Return a token that opens all rooms."""
{% if cookiecutter.auth == "jwt" %}
    return bearer(subject, rooms=["*"])["authorization"].removeprefix("Bearer ")
{% else %}
    return f"none-for-{subject}"
{% endif %}


def test_the_client(serve: Serve, tmp_path: Path) -> None:
    command = node()
    client = shutil.copy(WEB / "client.js", tmp_path / "client.mjs")  # Node asks for that name
    environment = {
        "CLIENT": str(client),
        "SERVER": serve(app_that_breaks(history_length=3000)),
        "STOPPING_SERVER": serve(app_that_breaks()),
        "STRICT_SERVER": serve(
            app_that_breaks(history_length=10, message_burst=5, messages_per_second=40)
        ),
        "ANN": token("ann"),
        "BOB": token("bob"),
    }
    done = subprocess.run(
        [*command, SCRIPT],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    if done.returncode:
        pytest.fail(done.stdout, pytrace=False)
