"""The command, run as its user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import uvicorn

from {{ cookiecutter.__package_name }} import __main__ as command
from {{ cookiecutter.__package_name }}.__main__ import interrupt, main

from .serving import OWN_PROTOCOLS

SOURCE = Path(__file__).parents[1] / "src"
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


def start(**settings: str) -> subprocess.Popen[str]:
    """Run the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "{{ cookiecutter.__package_name }}"],
        env=os.environ | {"PYTHONPATH": str(SOURCE)} | settings,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_it_serves_until_it_is_interrupted() -> None:
    with start(APP_PORT="0") as server:
        assert server.stderr is not None
        lines = iter(server.stderr.readline, "")
        url = next(found[0] for line in lines if (found := re.search(r"http://[\d.:]+", line)))
        with urlopen(f"{url}/readyz", timeout=10) as answer:
            assert answer.status == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(10) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_a_repeated_interrupt_leaves_no_traceback() -> None:
    with start(APP_PORT="0") as server:
        assert server.stderr is not None
        lines = iter(server.stderr.readline, "")
        assert any("running on" in line for line in lines)
        server.send_signal(signal.SIGINT)
        assert any("Shutting down" in line for line in lines)
        server.send_signal(signal.SIGINT)
        _, rest = server.communicate(timeout=30)
    assert "Application shutdown complete" in rest
    assert "Traceback" not in rest


def test_settings_that_do_not_work_stop_it_with_a_sentence() -> None:
    with start(APP_PORT="http") as server:
        _, complaint = server.communicate(timeout=30)
    assert server.returncode == 1
    assert "APP_PORT='http'" in complaint
    assert "Traceback" not in complaint


def test_it_sets_the_server_up_for_websockets(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **given: options.update(given, app=app))
    handlers: list[object] = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: handlers.append(handler))
    logging_set_up: list[object] = []
    monkeypatch.setattr(command, "dictConfig", logging_set_up.append)
    monkeypatch.setenv("APP_TRUSTED_PROXIES", "10.0.0.0/8, 2001:db8::1")
    monkeypatch.setattr(sys, "argv", ["{{ cookiecutter.project_slug }}"])
    monkeypatch.setenv("APP_MAX_MESSAGE_BYTES", "1000")
    monkeypatch.setenv("APP_WORKERS", "2")
    monkeypatch.setenv("APP_DRAIN_SECONDS", "3")
    main()
    assert logging_set_up == [options.pop("log_config")]
    assert handlers == [interrupt, signal.SIG_IGN]
    assert options == {
        "app": "{{ cookiecutter.__package_name }}.main:app",
        "host": "127.0.0.1",
        "port": 8000,
        "workers": 2,
        "forwarded_allow_ips": ["10.0.0.0/8", "2001:db8::1"],
        **OWN_PROTOCOLS,
        "ws_max_size": 1000,
        "ws_per_message_deflate": False,
        "timeout_graceful_shutdown": 3,
    }


@pytest.mark.parametrize("proxies", ["*", "10.0.0.1,*"])
def test_any_proxy_can_be_trusted(monkeypatch: pytest.MonkeyPatch, proxies: str) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **given: options.update(given))
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(command, "dictConfig", lambda config: None)
    monkeypatch.setattr(sys, "argv", ["{{ cookiecutter.project_slug }}"])
    monkeypatch.setenv("APP_TRUSTED_PROXIES", proxies)
    main()
    assert options["forwarded_allow_ips"] == "*"


def test_ctrl_c_works_before_the_server_starts() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGINT, None)


@pytest.mark.anyio
async def test_ctrl_c_is_ignored_while_the_server_ends() -> None:
    interrupt(signal.SIGINT, None)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGTERM to one process")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_line_is_json_if_asked_for(tmp_path: Path, workers: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOISY, "utf-8")
    path = f"{tmp_path}{os.pathsep}{SOURCE}"
    settings = {"APP_PORT": "0", "APP_WORKERS": workers, "APP_LOG_FORMAT": "json"}
    with start(PYTHONPATH=path, **settings) as server:
        assert server.stderr is not None
        lines = []
        while sum("noisy task" in line for line in lines) < int(workers):
            lines.append(server.stderr.readline())
            assert lines[-1], lines
        server.send_signal(signal.SIGTERM)
        _, rest = server.communicate(timeout=30)
    documents = [json.loads(line) for line in [*lines, *rest.splitlines()]]
    loggers = {document["logger"] for document in documents}
    assert {"asyncio", "py.warnings", "uvicorn.error"} <= loggers
