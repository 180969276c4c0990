"""`serve`, which runs an application on uvicorn, in a process of its own."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import uvicorn
from fastapi_realtime import command_line
from fastapi_realtime.server.http_protocol import LimitedHttpProtocol
from fastapi_realtime.server.logging import name_settings
from fastapi_realtime.server.websocket_protocol import LimitedWebSocketProtocol
from fastapi_realtime.settings import RealtimeSettings

from .serving import connect, receive_all

PROGRAM = """
from fastapi import FastAPI

from fastapi_realtime import Admitted, Realtime, RealtimeSettings, load_settings, serve

settings = load_settings(RealtimeSettings)
realtime = Realtime(settings)
app = FastAPI()
realtime.install(app)


@app.get("/ready")
async def ready() -> bool:
    return realtime.is_ready


@app.websocket("/all")
async def everything(connection: Admitted) -> None:
    async for message in connection:
        await connection.send(message)


if __name__ == "__main__":
    serve("program:app", settings)
"""
NOISY = """
import logging
import sys
import threading
import time
import warnings


def make_noise():
    while "uvicorn.lifespan.on" not in sys.modules or logging._warnings_showwarning is None:
        time.sleep(0.01)
    warnings.warn("noisy library", stacklevel=1)
    logging.getLogger("asyncio").error("noisy task")


threading.Thread(target=make_noise, daemon=True).start()
"""
"""A library that warns and logs in every process that serves, as `sitecustomize.py`."""

not_on_windows = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows sends no signal to one process"
)


def start(folder: Path, **settings: str) -> subprocess.Popen[str]:
    """Serve an application in a process of its own, on a free port."""
    (folder / "program.py").write_text(PROGRAM, "utf-8")
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "APP_PORT": "0"} | settings,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(server: subprocess.Popen[str]) -> Iterator[str]:
    """Yield what a server logs."""
    assert server.stderr is not None
    return iter(server.stderr.readline, "")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_address_in_use_ends_the_server_with_an_error(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        with start(tmp_path, APP_PORT=port, APP_WORKERS=workers) as server:
            _, log = server.communicate(timeout=30)
    assert server.returncode not in (0, None)
    assert "; see APP_HOST and APP_PORT" in log
    assert "Traceback" not in log


def test_an_error_about_the_address_names_its_settings() -> None:
    record = logging.makeLogRecord({"msg": OSError(98, "in use")})
    assert name_settings(record)
    assert record.getMessage() == "[Errno 98] in use; see APP_HOST and APP_PORT"


@not_on_windows
def test_server_drains_and_exits_at_ctrl_c_and_ignores_repeats(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        lines = lines_of(server)
        address = next(
            found[1] for line in lines if (found := re.search(r"http://([\d.:]+)", line))
        )
        with urlopen(f"http://{address}/ready", timeout=10) as answer:
            assert answer.read() == b"true"
        with connect(f"ws://{address}/all") as client:
            client.send("hello")
            assert client.recv(timeout=10) == "hello"
            server.send_signal(signal.SIGINT)
            assert receive_all(client) == ([], 1012)
        assert any("Shutting down" in line for line in lines)
        server.send_signal(signal.SIGINT)
        _, rest = server.communicate(timeout=30)
    assert server.returncode == 0
    assert "Application shutdown complete" in rest
    assert "Traceback" not in rest


def log_until_stopped(
    server: subprocess.Popen[str], workers: int, number: signal.Signals
) -> list[str]:
    """Stop a server by a signal once each worker has made noise; return its log."""
    lines = []
    for line in lines_of(server):
        lines.append(line)
        if sum("noisy task" in each for each in lines) == workers:
            break
    server.send_signal(number)
    _, rest = server.communicate(timeout=30)
    return lines + rest.splitlines()


@not_on_windows
def test_every_line_is_json_if_asked_for(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOISY, "utf-8")
    with (
        start(tmp_path, APP_LOG_FORMAT="json") as single,
        start(tmp_path, APP_LOG_FORMAT="json", APP_WORKERS="2") as double,
    ):
        logs = [
            log_until_stopped(single, 1, signal.SIGINT),
            log_until_stopped(double, 2, signal.SIGTERM),
        ]
    assert (single.returncode, double.returncode) == (0, 0)
    for log in logs:
        loggers = {json.loads(line)["logger"] for line in log}
        assert {"asyncio", "py.warnings", "uvicorn.error"} <= loggers


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `serve` gives to uvicorn, which does not run, and what it sets up besides."""
    options: dict[str, Any] = {"handlers": [], "logging": []}
    monkeypatch.setattr(uvicorn, "run", lambda app, **given: options.update(given, app=app))
    monkeypatch.setattr(signal, "signal", lambda _, handler: options["handlers"].append(handler))
    monkeypatch.setattr(command_line, "dictConfig", options["logging"].append)
    return options


def test_uvicorn_is_set_up_for_websockets(options: dict[str, Any]) -> None:
    settings = {
        "trusted_proxies": "10.0.0.0/8, 2001:db8::1",
        "max_message_bytes": 1000,
        "workers": 2,
        "drain_seconds": 3,
    }
    command_line.serve("package.main:app", RealtimeSettings.model_validate(settings))
    assert options.pop("logging") == [options.pop("log_config")]
    assert options.pop("handlers") == [command_line.interrupt, signal.SIG_IGN]
    assert options == {
        "app": "package.main:app",
        "host": "127.0.0.1",
        "port": 8000,
        "workers": 2,
        "forwarded_allow_ips": ["10.0.0.0/8", "2001:db8::1"],
        "http": LimitedHttpProtocol,
        "ws": LimitedWebSocketProtocol,
        "ws_max_size": 1000,
        "ws_per_message_deflate": False,
        "timeout_graceful_shutdown": 3,
        "timeout_worker_healthcheck": 60,
    }


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/page"),
        ("0.0.0.0", "http://127.0.0.1:8000/page"),
        ("::", "http://[::1]:8000/page"),
    ],
)
def test_the_start_names_the_address_of_a_page(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    host: str,
    address: str,
) -> None:
    caplog.set_level(logging.INFO)
    filters: list[Callable[[logging.LogRecord], bool]] = []
    logger = logging.getLogger("uvicorn.error")
    monkeypatch.setattr(logger, "addFilter", filters.append)
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(logger, "handle", records.append)
    command_line.serve("app", RealtimeSettings(host=host), page="/page")
    config = uvicorn.Config("app", host=host, log_config=None)
    config.ssl = None
    uvicorn.Server(config)._log_started_message([])
    (record,), (_, add_page_url) = records, filters
    assert add_page_url(record)
    assert record.getMessage().endswith(f"(Press CTRL+C to quit). Open {address} in a browser.")
    assert address in vars(record)["color_message"]


@pytest.mark.parametrize("proxies", ["*", "10.0.0.1,*"])
def test_any_proxy_can_be_trusted(options: dict[str, Any], proxies: str) -> None:
    command_line.serve("app", RealtimeSettings.model_validate({"trusted_proxies": proxies}))
    assert options["forwarded_allow_ips"] == "*"


def test_ctrl_c_works_before_the_server_starts() -> None:
    with pytest.raises(KeyboardInterrupt):
        command_line.interrupt(signal.SIGINT, None)


@pytest.mark.anyio
async def test_ctrl_c_is_ignored_from_when_the_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = []
    monkeypatch.setattr(signal, "signal", lambda *handler: handlers.append(handler))
    command_line.interrupt(signal.SIGINT, None)
    assert handlers == [(signal.SIGINT, signal.SIG_IGN)]
