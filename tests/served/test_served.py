"""Level 2: projects installed, run and stopped as their documents say."""

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.asyncio.client import connect as async_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from ..conftest import (
    ALL_ON,
    INSTALLED,
    PACKAGE,
    TEMPLATE,
    Answers,
    Bake,
    project_params,
    run,
)
from ..engine.redis_server import running_redis
from ..template.test_documents import follow

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups"),
]

LOWEST = "3.11"
NEWEST = "3.14"


def newest_python() -> str:
    """Return the newest Python that uv finds, without fetching one."""
    for minor in range(int(NEWEST.partition(".")[2]), int(LOWEST.partition(".")[2]), -1):
        found = subprocess.run(
            ["uv", "python", "find", "--no-python-downloads", "--no-project", f"3.{minor}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode == 0:
            return found.stdout.strip()
    pytest.skip(f"there is no Python newer than {LOWEST} here")


@contextmanager
def running(
    project: Path, *command: str, **settings: str
) -> Generator[tuple[str, subprocess.Popen[str]]]:
    """Run a command that serves; yield its address and its process."""
    environment = os.environ | {"PYTHONPATH": ""} | settings
    with started(list(command), cwd=project, env=environment) as found:
        yield found


@contextmanager
def started(command: list[str], **how: Any) -> Generator[tuple[str, subprocess.Popen[str]]]:
    """Start a command that serves; yield its address and its process."""
    server = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
        **how,
    )
    assert server.stdout is not None
    said = ""
    try:
        while not (
            found := re.search(r"(?i)(?:running on|listening at:) https?://([\d.]+:\d+)", said)
        ):
            said += (line := server.stdout.readline())
            assert line, f"{command} says:\n{said}"
        wait_until_it_listens(found[1])
        yield found[1], server
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        server.stdout.close()


def wait_until_it_listens(where: str) -> None:
    """Try to connect; a reloader names its address before it listens, and says no more."""
    host, _, port = where.partition(":")
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def interrupt(server: subprocess.Popen[str], within: float) -> str:
    """Press Ctrl-C, wait for the end, and return what the server still said."""
    os.killpg(server.pid, signal.SIGINT)
    rest, _ = server.communicate(timeout=within)
    return rest


def talk(where: str) -> None:
    """Have the conversation that the README shows with each endpoint."""
    with connect(f"ws://{where}/ws", proxy=None) as echo:
        echo.send("Hello")
        assert echo.recv(timeout=10) == "Message text was: Hello"
        echo.send(b"\x00")
        assert echo.recv(timeout=10) == b"\x00"
    with connect(f"ws://{where}/ws_json", proxy=None) as checked:
        checked.send('{"name": "Zoë"}')
        assert json.loads(checked.recv(timeout=10)) == {
            "message": "Received JSON data",
            "data": {"name": "Zoë"},
        }
    room = f"ws://{where}/ws_broadcast/tea"
    with connect(f"{room}?name=zoe", subprotocols=[Subprotocol("events.v1")], proxy=None) as zoe:
        assert json.loads(zoe.recv(timeout=10))["type"] == "joined"
        assert json.loads(zoe.recv(timeout=10))["type"] == "present"
        with connect(room, proxy=None) as guest:
            assert json.loads(zoe.recv(timeout=10))["type"] == "joined"
            zoe.send(json.dumps({"type": "message", "data": "Hello"}))
            assert guest.recv(timeout=10) == "New message: Hello"


@project_params(INSTALLED)
@pytest.mark.parametrize("python", [LOWEST, "newest"])
def test_its_suite_passes_in_an_environment_of_its_own(
    own_project: Path, answers: Answers, python: str
) -> None:
    version = newest_python() if python == "newest" else python
    own = {"UV_PROJECT_ENVIRONMENT": ".venv", "PYTHONPATH": ""}
    run("uv", "run", "--python", version, "pytest", "--cov", cwd=own_project, **own)
    assert (own_project / "uv.lock").exists()


def test_the_engines_tests_pass_on_the_newest_python_and_run_every_line(tmp_path: Path) -> None:
    command = ("uv", "run", "--python", newest_python(), "pytest", "-n", "2", "-q")
    own = {"UV_PROJECT_ENVIRONMENT": str(tmp_path / "venv"), "COVERAGE_FILE": str(tmp_path / "cov")}
    own["COVERAGE_CORE"] = "sysmon"  # the fastest, from 3.12 on
    cov = f"--cov={PACKAGE / 'src'}"
    tests = ("tests/engine", "tests/browser/test_add_page.py")
    run(*command, cov, *tests, "-p", "no:cacheprovider", cwd=TEMPLATE, **own)


def test_it_is_a_project_inside_a_workspace_of_somebody_else(bake: Bake) -> None:
    project = bake().project_path
    outer = '[project]\nname = "outer"\nversion = "1"\n\n[tool.uv.workspace]\nmembers = ["my-*"]\n'
    (project.parent / "pyproject.toml").write_text(outer, "utf-8")
    script = "import fastapi_realtime, my_websocket_app.main; print(fastapi_realtime.__file__)"
    run("uv", "run", "python", "-c", script, cwd=project, PYTHONPATH="")


def test_pip_installs_it_with_the_engine_and_not_without(bake: Bake, tmp_path: Path) -> None:
    project = bake(auth="jwt", broker="redis").project_path
    run("uv", "venv", "--seed", "--python", LOWEST, tmp_path / "venv", cwd=project)
    python = tmp_path / "venv/bin/python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    with pytest.raises(AssertionError, match="No matching distribution found for fastapi-realtime"):
        run(*pip, ".", cwd=project, PYTHONPATH="")
    run(*pip, "./packages/fastapi-realtime[jwt,redis]", ".", cwd=project, PYTHONPATH="")
    run(python, "-m", "my_websocket_app", "--help", cwd=tmp_path, PYTHONPATH="")


def test_metrics_are_scraped_as_the_documents_show(bake: Bake) -> None:
    project = bake().project_path
    written = follow(project)
    assert "metrics.py" in written
    source = project / "src/my_websocket_app"
    for name, before, change in (
        ("settings.py", "\n\n\nSettingsDep", "\n\n    metrics_port: int = 0\n\n\nSettingsDep"),
        (
            "main.py",
            "\n\ndef create_app",
            "from .metrics import export_metrics\n\n\ndef create_app",
        ),
        (
            "main.py",
            "    return app\n",
            "    if settings.metrics_port:\n        export_metrics(settings.metrics_port)\n    return app\n",
        ),
    ):
        text = (source / name).read_text("utf-8")
        assert before in text
        (source / name).write_text(text.replace(before, change, 1), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    command = ("--with", "opentelemetry-exporter-prometheus", "my-websocket-app")
    settings = {"APP_PORT": "0", "APP_METRICS_PORT": port}
    with (
        running(project, "uv", "run", *command, **settings) as (where, _),
        connect(f"ws://{where}/ws", proxy=None) as client,
    ):
        client.send("Hello")
        client.recv(timeout=10)
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    assert 'websocket_server_active_connections{http_route="/ws"' in text


@pytest.mark.parametrize(
    "command",
    [
        ("my-websocket-app",),
        ("fastapi", "dev", "--port", "0"),
        ("uvicorn", "my_websocket_app.main:app", "--port", "0"),
    ],
    ids=lambda command: command[0],
)
def test_it_runs_in_every_way_the_readme_names(bake: Bake, command: tuple[str, ...]) -> None:
    project = bake().project_path
    with running(project, "uv", "run", *command, APP_PORT="0") as (where, server):
        for path in ("livez", "readyz"):
            with urlopen(f"http://{where}/{path}", timeout=10) as answer:
                assert answer.status == 200
        talk(where)
        assert "Traceback" not in interrupt(server, within=20)


def test_the_command_talks_to_the_server_and_checks_it(bake: Bake) -> None:
    project = bake(auth="jwt").project_path
    key = secrets.token_urlsafe(48)
    with running(project, "uv", "run", "my-websocket-app", APP_PORT="0", APP_AUTH_KEY=key) as (
        where,
        _,
    ):
        settings = {"APP_PORT": where.rpartition(":")[2], "APP_AUTH_KEY": key}
        said = command(project, "talk", "/ws", lines="Hello\n", **settings)
        assert said.stdout.splitlines() == ["< Message text was: Hello", "closed: 1000"]
        said = command(project, "talk", "/ws_broadcast", lines="Hello\n", **settings)
        assert said.stdout.startswith('< {"type":"joined",')
        refused = command(project, "talk", "/nowhere", **settings)
        assert (refused.returncode, refused.stderr) == (1, 'refused: 404 {"detail":"Not Found"}\n')
        token = command(project, "token", "zoe", "--room", "*", **settings).stdout.strip()
        url = f"ws://{where}/ws_broadcast"
        said = command(project, "check", url, "--silence", "0.01", APP_TOKEN=token)
        assert [line.split()[0] for line in said.stdout.splitlines()] == ["ok"] * 3 + ["...", "ok"]
        assert said.returncode == 0
        said = command(project, "check", url, "--silence", "0.01")
        assert (said.returncode, said.stderr) == (1, "problems: 1\n")


def command(
    project: Path, *arguments: str, lines: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the project's command, with lines to read."""
    return subprocess.run(
        ["uv", "run", "--quiet", project.name, *arguments],
        cwd=project,
        env=os.environ | environment,
        input=lines,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


PROBE = """
from my_websocket_app.main import app
from fastapi_realtime import Admitted

try:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
except ImportError:
    pass
else:
    trace.set_tracer_provider(TracerProvider())


@app.websocket("/way")
async def way(connection: Admitted) -> None:
    await connection.send("portable" if connection.transport is None else "direct")
"""


@pytest.mark.parametrize(
    ("command", "way"),
    [
        ("uvicorn probe:app --port 0", "direct"),
        ("uvicorn probe:app --port 0 --loop asyncio", "direct"),
        ("uvicorn probe:app --port 0 --ws websockets", "portable"),
        ("uvicorn probe:app --port 0 --proxy-headers", "direct"),
        ("uvicorn probe:app --port 0 --ssl-keyfile key.pem --ssl-certfile cert.pem", "direct"),
        ("--with wsproto uvicorn probe:app --port 0 --ws wsproto", "direct"),
        ("--with opentelemetry-sdk uvicorn probe:app --port 0", "direct"),
        ("fastapi dev probe.py --port 0", "direct"),
        ("--with hypercorn hypercorn probe:app --bind 127.0.0.1:FREE", "portable"),
        ("--with granian granian --interface asgi probe:app --port FREE", "portable"),
    ],
)
def test_the_fast_path_is_used_wherever_there_is_one(bake: Bake, command: str, way: str) -> None:
    project = bake().project_path
    (project / "probe.py").write_text(PROBE, "utf-8")
    secure = "--ssl" in command
    if secure:
        make_certificate(project)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = str(probe.getsockname()[1])
    with running(project, "uv", "run", *command.replace("FREE", free).split()) as (where, server):
        assert asyncio.run(ask(f"{'wss' if secure else 'ws'}://{where}/way")) == way
        if not secure:
            talk(where)
        interrupt(server, within=20)


async def ask(url: str) -> str | bytes:
    """Return the first message; trust any certificate."""
    trust = ssl._create_unverified_context() if url.startswith("wss") else None
    async with asyncio.timeout(30), async_connect(url, ssl=trust, proxy=None) as client:
        return await client.recv()


def make_certificate(folder: Path) -> None:
    """Write a key and a certificate that nobody trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    run(
        *"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost".split(),
        *"-keyout key.pem -out cert.pem".split(),
        cwd=folder,
    )


def test_a_client_in_another_language_accepts_every_frame(bake: Bake) -> None:
    if shutil.which("npm") is None:
        pytest.skip("there is no Node here")
    project = bake().project_path
    run("npm", "install", "--silent", "--no-save", "--prefix", "strict", "ws", cwd=project)
    client = shutil.copy(Path(__file__).with_name("strict_client.cjs"), project / "strict")
    command = ("uv", "run", "uvicorn", "my_websocket_app.main:app", "--port", "0")
    with running(project, *command) as (where, _):  # with compression, as the stock command has it
        run("node", client, f"ws://{where}", cwd=project)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_stop_closes_every_connection_with_1012_in_time(
    bake: Bake, environment: Path, number: int, workers: str
) -> None:
    project = bake(broker="redis").project_path
    run("uv", "sync", cwd=project)  # `uv run` would pass a signal on that it gets itself
    command = str(environment / "bin/my-websocket-app")
    settings = {"APP_PORT": "0", "APP_WORKERS": workers, "APP_DRAIN_SECONDS": "3"}
    settings["APP_MESSAGE_BURST"] = "10000"  # for clients that say much before they stall
    with (
        broker_for(workers) as broker,
        running(project, command, **settings, APP_BROKER_URL=broker) as (where, server),
        ExitStack() as stack,
    ):
        for _ in range(2 * int(workers)):
            stack.enter_context(stalled(where))
        url = f"ws://{where}/ws_broadcast"
        members = [stack.enter_context(connect(url, proxy=None)) for _ in range(20)]
        server.send_signal(number)
        for member in members:
            with pytest.raises(ConnectionClosed):
                member.recv(timeout=10)
            assert member.close_code == 1012
        rest, _ = server.communicate(timeout=20)
        assert not re.search("Traceback|ERROR", rest), rest


@contextmanager
def broker_for(workers: str) -> Generator[str]:
    """Yield the URL of what carries rooms: several workers need a Redis."""
    if workers == "1":
        yield "memory://"
        return
    with running_redis() as redis:
        yield redis.url


@contextmanager
def stalled(where: str) -> Generator[None]:
    """Connect a client that says more than it ever reads."""
    host, _, port = where.partition(":")
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect((host, int(port)))
        raw.sendall(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert raw.recv(12) == b"HTTP/1.1 101"
        raw.setblocking(False)
        with suppress(BlockingIOError):
            while raw.send(b"\x81\xfe\xea\x60" + bytes(4) + b"x" * 60_000):
                pass
        yield


def test_ctrl_c_in_a_terminal_stops_uv_and_the_server(bake: Bake) -> None:
    project = bake().project_path
    command = ("uv", "run", "my-websocket-app")
    with (
        running(project, *command, APP_PORT="0") as (where, server),
        connect(f"ws://{where}/ws", proxy=None) as client,
    ):
        assert "Traceback" not in interrupt(server, within=20)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=10)
        assert client.close_code == 1012


@pytest.mark.parametrize("members", [0, 20])
@pytest.mark.parametrize("command", ["my-websocket-app", "fastapi run --port 0"])
def test_ctrl_c_without_a_terminal_leaves_no_traceback(
    bake: Bake, command: str, members: int
) -> None:
    project = bake().project_path
    with (
        running(project, "uv", "run", *command.split(), APP_PORT="0") as (where, server),
        ExitStack() as stack,
    ):
        url = f"ws://{where}/ws_broadcast"
        joined = [stack.enter_context(connect(url, proxy=None)) for _ in range(members)]
        said = interrupt(server, within=30)
        assert "Application shutdown complete" in said
        # uv repeats the signal, which may interrupt Python's own end under `fastapi`.
        assert not re.search("Error|ERROR", said), said
        assert [closed_with(member) for member in joined] == members * [1012]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_to_every_process_of_the_group_closes_with_1012(bake: Bake, workers: str) -> None:
    project = bake(broker="redis").project_path
    settings = {"APP_PORT": "0", "APP_WORKERS": workers}
    with (
        broker_for(workers) as broker,
        running(project, "uv", "run", "my-websocket-app", **settings, APP_BROKER_URL=broker) as (
            where,
            server,
        ),
        ExitStack() as stack,
    ):
        url = f"ws://{where}/ws_broadcast"
        members = [stack.enter_context(connect(url, proxy=None)) for _ in range(200)]
        os.killpg(server.pid, signal.SIGTERM)
        assert [closed_with(member) for member in members] == 200 * [1012]
        said, _ = server.communicate(timeout=30)
        assert not re.search("Traceback|ERROR", said), said


def closed_with(client: ClientConnection) -> int | None:
    """Return the code that the server closes with."""
    with suppress(ConnectionClosed):
        while True:
            client.recv(timeout=30)
    return client.close_code


def test_with_tokens_it_runs_as_its_readme_says(bake: Bake) -> None:
    project = bake(auth="jwt").project_path
    command = ("uv", "run", "my-websocket-app")
    run("uv", "sync", cwd=project)
    key = subprocess.run([*command, "key"], cwd=project, capture_output=True, text=True, check=True)
    (project / ".env").write_text(key.stdout, "utf-8")
    token = subprocess.run(
        [*command, "token", "zoe"], cwd=project, capture_output=True, text=True, check=True
    ).stdout.strip()
    with running(project, *command, APP_PORT="0") as (where, _):
        with pytest.raises(InvalidStatus, match="401"), connect(f"ws://{where}/ws", proxy=None):
            pass
        offered = [Subprotocol("v1"), Subprotocol(f"bearer.{token}")]
        url = f"ws://{where}/ws_broadcast"
        with connect(url, subprotocols=offered, proxy=None) as browser:
            assert browser.subprotocol == "v1"
        credentials = {"Authorization": f"Bearer {token}"}
        with connect(f"ws://{where}/ws", additional_headers=credentials, proxy=None) as program:
            program.send("Hello")
            assert program.recv(timeout=10) == "Message text was: Hello"


def test_nobody_is_offered_compression(bake: Bake) -> None:
    project = bake().project_path
    with (
        running(project, "uv", "run", "my-websocket-app", APP_PORT="0") as (where, _),
        connect(f"ws://{where}/ws", compression="deflate", proxy=None) as client,
    ):
        assert client.protocol.extensions == []


def test_names_of_dependencies_are_refused_as_slugs(bake: Bake) -> None:
    project = bake(**ALL_ON).project_path
    run("uv", "sync", cwd=project)
    script = (
        "from importlib.metadata import distributions, packages_distributions as p;"
        "print(*p(), *(d.name for d in distributions()))"
    )
    listed = subprocess.run(
        ["uv", "run", "python", "-c", script],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    there = {name.lower().replace("-", "_").replace(".", "_") for name in listed.stdout.split()}
    for name in sorted(there - {"my_websocket_app"}):
        if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
            assert bake(project_slug=name).exit_code != 0, name
