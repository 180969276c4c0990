"""The command, run as its user runs it."""

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

from {{ cookiecutter.__package_name }}.__main__ import main
from {{ cookiecutter.__package_name }}.main import app
from {{ cookiecutter.__package_name }}.settings import Settings

SOURCE = Path(__file__).parents[1] / "src"


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


def test_settings_that_do_not_work_stop_it_with_a_sentence() -> None:
    with start(APP_PORT="http") as server:
        _, complaint = server.communicate(timeout=30)
    assert server.returncode == 1
    assert "APP_PORT='http'" in complaint
    assert "Traceback" not in complaint


def test_it_sets_the_server_up_for_websockets(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **given: options.update(given))
    monkeypatch.setattr(sys, "argv", ["{{ cookiecutter.project_slug }}"])
    monkeypatch.setattr(app.state, "settings", Settings(max_message_bytes=1000, drain_seconds=3))
    main()
    assert "{{ cookiecutter.__package_name }}" in options.pop("log_config")["loggers"]
    assert options == {
        "host": "127.0.0.1",
        "port": 8000,
        "ws_max_size": 1000,
        "ws_per_message_deflate": False,
        "timeout_graceful_shutdown": 3,
    }
