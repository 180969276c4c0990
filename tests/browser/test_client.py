"""client.js in Node and in a browser, against real servers."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import fastapi_realtime
import pytest
from fastapi import FastAPI
from fastapi_realtime import RealtimeDep

from ..engine.serving import NO_RATE_LIMIT, Serve
from .conftest import OpenPage, is_ci
from .projects import Project, projects

CLIENT = Path(fastapi_realtime.__file__).parent / "client"
SCRIPT = Path(__file__).with_name("client.test.mjs")

TALK_WITHOUT_WEBSOCKETS = """
    async ([annsToken, bobsToken]) => {
        const { connect } = await import("/client/client.js");
        class Blocked extends WebSocket {
            constructor(url, protocols) {
                super(url.replace("ws_broadcast", "blocked"), protocols);
            }
        }
        const join = (name, token, options) => {
            const room = connect(`/ws_broadcast/tea?name=${name}`, { token, minDelay: 10, ...options });
            const got = [];
            room.addEventListener("message", ({ detail }) => got.push(detail.data));
            return { room, got };
        };
        const until = async (condition) => {
            while (!condition()) await new Promise((resolve) => setTimeout(resolve, 10));
        };
        const next = (room, type) => new Promise((resolve) => room.addEventListener(type, resolve));
        const ann = join("ann", () => annsToken, { WebSocket: Blocked, fallback: true });
        const bob = join("bob", () => bobsToken);
        await until(() => ann.room.state === "open" && bob.room.state === "open");
        await ann.room.send("Zoë 🫖");
        const tooBig = await ann.room.send("x".repeat(1_000_000)).catch((error) => error.code);
        await bob.room.send("Grüße");
        await until(() => ann.got.length === 1);
        const lost = [ann, bob].map(({ room }) => next(room, "state"));
        await fetch("/test/close/1012", { method: "POST" });
        await Promise.all(lost);
        await Promise.all([ann.room.send("again"), bob.room.send("again")]);
        await until(() => ann.got.length === 2 && bob.got.length === 2);
        const left = next(bob.room, "left");
        ann.room.close();
        const { sender } = (await left).detail;
        bob.room.close();
        return [ann.got, bob.got, tooBig, sender];
    }
"""


def node() -> list[str]:
    """Return the command for a Node with WebSockets; skip without, but not in CI on Linux."""
    command = shutil.which("node")
    version = [0, 0]
    if command is not None:
        said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
        version = [int(part) for part in said.stdout.lstrip("v").split(".")[:2]]
    if command is None or version < [20, 11]:
        assert not is_ci(), "there is no Node 20.11 or later"
        pytest.skip("there is no Node 20.11 or later")
    return [command] if version >= [22, 0] else [command, "--experimental-websocket"]


def app_that_breaks(project: Project, **settings: Any) -> FastAPI:
    """The application, with routes that end connections."""
    app = project.create_app(**NO_RATE_LIMIT | {"drain_seconds": 1} | settings)

    @app.post("/test/close/{code}")
    async def close(realtime: RealtimeDep, code: int) -> None:
        for connection in [*realtime.connections]:
            await connection.close(code, "closed by the test")

    @app.post("/test/stop")
    async def stop(realtime: RealtimeDep) -> None:
        await realtime.drain.run()

    return app


def run_node(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    """Run Node, and return what it prints; fail with that if it fails."""
    done = subprocess.run(
        [*node(), *arguments],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    if done.returncode:
        pytest.fail(done.stdout, pytrace=False)
    return done.stdout


@projects("open", "tokens")
def test_the_client(serve: Serve, tmp_path: Path, project: Project) -> None:
    node()  # or skip
    strict = {"history_length": 10, "message_burst": 5, "messages_per_second": 40}
    run_node(
        SCRIPT,
        cwd=tmp_path,
        CLIENT=str(CLIENT / "client.js"),
        SERVER=serve(app_that_breaks(project, history_length=3000)),
        STOPPING_SERVER=serve(app_that_breaks(project)),
        STRICT_SERVER=serve(app_that_breaks(project, **strict)),
        ANN=project.token("ann") or "any-text",
        BOB=project.token("bob") or "any-text",
    )


@pytest.mark.anyio
@projects("open", "tokens")
async def test_the_fallback_in_a_browser(
    open_page: OpenPage, serve: Serve, project: Project
) -> None:
    page = await open_page(serve(app_that_breaks(project)))
    tokens = [project.token("ann") or "any-text", project.token("bob") or "any-text"]
    said = await page.evaluate(TALK_WITHOUT_WEBSOCKETS, tokens)
    assert said == [["Grüße", "again"], ["Zoë 🫖", "again"], "too_big", "ann"]


def test_a_bundler_finds_the_client_as_a_package(tmp_path: Path) -> None:
    package = json.loads((CLIENT / "package.json").read_text("utf-8"))
    assert package["type"] == "module"
    for kinds in package["exports"].values():
        for path in kinds.values():
            assert (CLIENT / path).is_file()
    shutil.copytree(CLIENT, tmp_path / "node_modules" / package["name"])
    for name in (package["name"], f"{package['name']}/client.js"):
        code = f'import {{ connect }} from "{name}"; console.log(typeof connect)'
        said = run_node("--input-type=module", "--eval", code, cwd=tmp_path)
        assert said == "function\n"
