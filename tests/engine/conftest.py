"""Fixtures for the engine's tests."""

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_realtime import limits

from .brokers import MakeRooms, kinds
from .serving import Serve, WrapSend, echo_app, no_errors_logged, running


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("APP_") or name == "PORT"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # where no .env is
    monkeypatch.setattr(limits, "resource", None)  # no limit of this machine
    monkeypatch.setattr(gc, "freeze", lambda: None)  # Hypothesis looks for garbage itself


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that the engine runs on."""
    return "asyncio"


@pytest.fixture
def app() -> FastAPI:
    """An application that sends back what it gets, at `/all`."""
    return echo_app()


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the application in this process."""
    with TestClient(app) as client:
        yield client


@pytest.fixture
def serve(caplog: pytest.LogCaptureFixture) -> Iterator[Serve]:
    """Start an application on a real server, and return where: `ws://127.0.0.1:<port>`.

    Whatever clients do to a server, they must leave no error in its log.
    """
    caplog.set_level(logging.INFO)
    with no_errors_logged(), ExitStack() as stack:
        yield lambda app: stack.enter_context(running(app))


@pytest.fixture(params=["direct", "portable"])
def serve_both_ways(request: pytest.FixtureRequest, serve: Serve) -> Serve:
    """Do so where frames go to the transport, and where they go through ASGI."""

    def serve_one_way(app: FastAPI) -> str:
        if request.param == "portable":
            app.add_middleware(WrapSend)
        return serve(app)

    return serve_one_way


@pytest.fixture(scope="module", params=kinds())
def make_any_rooms(request: pytest.FixtureRequest) -> Iterator[MakeRooms]:
    """Rooms with a broker of each kind."""
    with kinds()[request.param]() as make_rooms:
        yield make_rooms
