"""How it ends: clients are told to come back, and nobody can hold the server up."""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack
from types import FrameType
from typing import cast

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from {{ cookiecutter.__package_name }}.drain import Drain
from starlette.testclient import WebSocketDenialResponse

from {{ cookiecutter.__package_name }}.realtime import Admitted
from {{ cookiecutter.__package_name }}.realtime.connection import Connection

from .serving import Serve, connect, echo_app, raw_client, receive_all


def app_that_drains(seconds: int) -> FastAPI:
    """An application that begins to drain as soon as it is asked to."""
    app = echo_app(drain_seconds=seconds)
    app.state.drained = threading.Event()

    @app.websocket("/flood")
    async def flood(connection: Admitted) -> None:
        while True:
            await connection.send(b"x" * 10_000)

    @app.websocket("/drain")
    async def drain(connection: Admitted) -> None:
        await connection.accept()
        app.state.task = asyncio.create_task(app.state.drain.run())
        app.state.task.add_done_callback(lambda _: app.state.drained.set())
        await connection.send("it has begun")
        async for _ in connection:
            pass

    return app


def test_everybody_is_told_1012(serve_both_ways: Serve) -> None:
    url = serve_both_ways(app_that_drains(seconds=10))
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(f"{url}/all")) for _ in range(20)]
        clients.append(stack.enter_context(connect(f"{url}/drain")))
        assert [receive_all(client)[1] for client in clients] == 21 * [1012]


def test_new_clients_are_refused_and_so_says_readyz() -> None:
    app = app_that_drains(seconds=10)
    client = TestClient(app)
    with client, client.websocket_connect("/drain") as websocket:
        assert websocket.receive_text() == "it has begun"
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200
        with pytest.raises(WebSocketDenialResponse) as refusal, client.websocket_connect("/all"):
            pass
        assert refusal.value.status_code == 503


def test_who_does_not_read_is_dropped_in_time(serve_both_ways: Serve) -> None:
    app = app_that_drains(seconds=2)
    url = serve_both_ways(app)
    with raw_client(url, "/flood"), connect(f"{url}/drain") as client:
        assert receive_all(client) == (["it has begun"], 1012)
        assert app.state.drained.wait(10)


class Stubborn:
    """A connection that never closes."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.told = asyncio.Event()
        self.aborted = False

    def close_soon(self, code: int, reason: str) -> None:
        self.codes.append(code)
        self.told.set()

    def abort(self) -> None:
        self.aborted = True


def drain_of(stubborn: Stubborn, clock: Callable[[], float]) -> Drain:
    """A drain that waits for a connection that never closes."""
    return Drain({cast("Connection", stubborn)}, seconds=1000, clock=clock)


class Server(uvicorn.Server):
    """A server that takes note of the signals it gets."""

    def __init__(self) -> None:
        super().__init__(uvicorn.Config(app=""))
        self.seen: list[int] = []
        self.stop = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.seen.append(sig)
        self.stop.set()


@pytest.fixture
def server() -> Generator[Server]:
    """A server that handles signals, as it does before the application starts."""
    server = Server()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, server.handle_exit) for number in numbers]
    yield server
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.anyio
async def test_a_signal_drains_first_and_stops_the_server_then(server: Server) -> None:
    stubborn = Stubborn()
    with Drain({cast("Connection", stubborn)}, seconds=1).on_signals():
        signal.raise_signal(signal.SIGTERM)
        assert server.seen == []
        await asyncio.wait_for(server.stop.wait(), 10)
    assert set(stubborn.codes) == {1012}
    assert stubborn.aborted
    assert server.seen == [signal.SIGTERM]


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def let_signals_arrive() -> None:
    """Let the event loop handle the signals raised so far."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.anyio
async def test_signals_within_a_second_count_as_one(server: Server) -> None:
    stubborn, clock = Stubborn(), Clock()
    with drain_of(stubborn, clock).on_signals():
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(stubborn.told.wait(), 10)
        clock.now += 1
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        await let_signals_arrive()
        assert not stubborn.aborted
        assert server.seen == []


@pytest.mark.anyio
async def test_sigterm_never_cuts_the_drain_short(server: Server) -> None:
    stubborn, clock = Stubborn(), Clock()
    with drain_of(stubborn, clock).on_signals():
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(stubborn.told.wait(), 10)
            await let_signals_arrive()
            clock.now += 5
        assert not stubborn.aborted
        assert server.seen == []


@pytest.mark.anyio
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
async def test_a_later_ctrl_c_ends_the_drain_and_one_more_goes_to_the_server(
    server: Server, first: int
) -> None:
    stubborn, clock = Stubborn(), Clock()
    with drain_of(stubborn, clock).on_signals():
        signal.raise_signal(first)
        await asyncio.wait_for(stubborn.told.wait(), 10)
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
async def test_a_repeat_after_the_drain_does_not_reach_the_server(server: Server) -> None:
    with Drain(set(), seconds=1, clock=Clock()).on_signals():
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(server.stop.wait(), 10)
        signal.raise_signal(signal.SIGINT)
        await let_signals_arrive()
    signal.raise_signal(signal.SIGINT)  # the application has ended, the server not yet
    await let_signals_arrive()
    assert server.seen == [signal.SIGINT]


@pytest.mark.anyio
async def test_signals_that_others_handle_are_left_alone(server: Server) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Drain(set(), seconds=1).on_signals():
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) != server.handle_exit
    assert signal.getsignal(signal.SIGTERM) == server.handle_exit
