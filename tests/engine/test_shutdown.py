"""A graceful stop: every client gets 1012, and none can delay it for long."""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import cast

import fastapi_realtime.server.shutdown as shutdown
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_realtime import Admitted
from fastapi_realtime.connection import Connection
from fastapi_realtime.server.shutdown import Drain
from starlette.testclient import WebSocketDenialResponse

from .room_app import room_app
from .serving import Serve, connect, echo_app, raw_client, receive_all


@pytest.fixture(autouse=True)
def _drain_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "PER_SECOND", 1000)


async def nothing_to_flush() -> None:
    """Return at once, as an engine without services does."""


def app_that_drains(seconds: float) -> FastAPI:
    """An application that begins to drain when a client connects to `/drain`."""
    app = echo_app()
    realtime = app.state.realtime
    realtime.drain = Drain(realtime.connections, seconds, nothing_to_flush)
    app.state.drained = threading.Event()

    @app.websocket("/flood")
    async def flood(connection: Admitted) -> None:
        while True:
            await connection.send(b"x" * 10_000)

    @app.websocket("/drain")
    async def drain(connection: Admitted) -> None:
        await connection.accept()
        app.state.task = asyncio.create_task(realtime.drain.run())
        app.state.task.add_done_callback(lambda _: app.state.drained.set())
        await connection.send("it has begun")
        async for _ in connection:
            pass

    return app


def test_all_clients_get_1012(serve_both_ways: Serve) -> None:
    url = serve_both_ways(app_that_drains(seconds=10))
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(f"{url}/all")) for _ in range(20)]
        clients.append(stack.enter_context(connect(f"{url}/drain")))
        assert [receive_all(client)[1] for client in clients] == 21 * [1012]


def test_new_clients_are_refused_and_the_engine_is_not_ready() -> None:
    app = app_that_drains(seconds=10)
    realtime = app.state.realtime
    assert not realtime.is_ready
    with TestClient(app) as client:
        assert realtime.is_ready
        with client.websocket_connect("/drain") as websocket:
            assert websocket.receive_text() == "it has begun"
            assert not realtime.is_ready
            with pytest.raises(WebSocketDenialResponse) as refused:
                client.websocket_connect("/all").__enter__()
            assert refused.value.status_code == 503


def test_client_that_does_not_read_is_dropped_in_time(serve_both_ways: Serve) -> None:
    app = app_that_drains(seconds=0.2)
    url = serve_both_ways(app)
    with raw_client(url, "/flood"), connect(f"{url}/drain") as client:
        assert receive_all(client) == (["it has begun"], 1012)
        assert app.state.drained.wait(10)


class Stubborn:
    """A connection that never closes."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.close_requested = asyncio.Event()
        self.aborted = False

    def close_soon(self, code: int, reason: str) -> None:
        self.codes.append(code)
        self.close_requested.set()

    def abort(self) -> None:
        self.aborted = True

    def drain(self, seconds: float) -> Drain:
        """Return a drain that waits for this connection."""
        return Drain({cast("Connection", self)}, seconds, nothing_to_flush)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def receiving(drain: Drain, clock: Callable[[], float]) -> Generator[None]:
    """Receive signals to stop, as a running engine does."""
    signals = shutdown.StopSignals(drain.run, clock)
    signals.install()
    try:
        yield
    finally:
        signals.restore()


class Server(uvicorn.Server):
    """A server that records the signals it gets."""

    def __init__(self) -> None:
        super().__init__(uvicorn.Config(app=""))
        self.seen: list[int] = []
        self.stop = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.seen.append(sig)
        self.stop.set()


@pytest.fixture
def server() -> Generator[Server]:
    """A server that handles signals, as before the application starts."""
    server = Server()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, server.handle_exit) for number in numbers]
    yield server
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.anyio
async def test_signal_drains_first_and_then_stops_the_server(server: Server) -> None:
    stubborn = Stubborn()
    with receiving(stubborn.drain(seconds=0.1), Clock()):
        signal.raise_signal(signal.SIGTERM)
        assert server.seen == []
        await asyncio.wait_for(server.stop.wait(), 10)
    assert set(stubborn.codes) == {1012}
    assert stubborn.aborted
    assert server.seen == [signal.SIGTERM]


@pytest.mark.anyio
@pytest.mark.parametrize("workers", [1, 2])
async def test_several_processes_of_uvicorn_with_rooms_in_memory_are_warned_of(
    server: Server, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    server.config.workers = workers
    app = room_app()
    async with app.router.lifespan_context(app):
        pass
    warnings = [each.getMessage() for each in caplog.records if "processes" in each.getMessage()]
    assert len(warnings) == workers - 1
    assert all("uvicorn runs 2 processes" in each for each in warnings)


async def let_signals_arrive() -> None:
    """Let the event loop handle the signals raised so far."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.anyio
async def test_signals_within_a_second_count_as_one(server: Server) -> None:
    stubborn, clock = Stubborn(), Clock()
    with receiving(stubborn.drain(seconds=1000), clock):
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(stubborn.close_requested.wait(), 10)
        clock.now += 1
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        await let_signals_arrive()
        assert not stubborn.aborted
        assert server.seen == []


@pytest.mark.anyio
async def test_repeated_sigterm_never_shortens_the_drain(server: Server) -> None:
    stubborn, clock = Stubborn(), Clock()
    with receiving(stubborn.drain(seconds=1000), clock):
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(stubborn.close_requested.wait(), 10)
            await let_signals_arrive()
            clock.now += 5
        assert not stubborn.aborted
        assert server.seen == []


@pytest.mark.anyio
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
async def test_later_ctrl_c_ends_the_drain_and_another_reaches_the_server(
    server: Server, first: int
) -> None:
    stubborn, clock = Stubborn(), Clock()
    with receiving(stubborn.drain(seconds=1000), clock):
        signal.raise_signal(first)
        await asyncio.wait_for(stubborn.close_requested.wait(), 10)
        clock.now += 1.1
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(server.stop.wait(), 10)
        assert stubborn.aborted
        assert server.seen == [first]
        await let_signals_arrive()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        await let_signals_arrive()
    assert server.seen == [first, signal.SIGINT]


@pytest.mark.anyio
async def test_repeated_signal_after_the_drain_does_not_reach_the_server(server: Server) -> None:
    with receiving(Drain(set(), 1, nothing_to_flush), Clock()):
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(server.stop.wait(), 10)
        signal.raise_signal(signal.SIGINT)
        await let_signals_arrive()
    signal.raise_signal(signal.SIGINT)  # the application has ended, the server not yet
    await let_signals_arrive()
    assert server.seen == [signal.SIGINT]


@pytest.mark.anyio
async def test_signals_that_uvicorn_does_not_handle_are_left_alone(server: Server) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with receiving(Drain(set(), 1, nothing_to_flush), Clock()):
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) != server.handle_exit
    assert signal.getsignal(signal.SIGTERM) == server.handle_exit
