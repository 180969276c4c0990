"""Connections that carry no message in either direction are closed with 1001."""

import asyncio
import time
from types import SimpleNamespace

import fastapi_realtime.connection as connection_module
import fastapi_realtime.realtime as realtime_module
import pytest
from fastapi_realtime import Admitted

from .serving import Serve, connect, echo_app, receive_all


class Clock:
    """A clock that a check for idle connections puts forward by half the timeout.

    It does so once for everybody who waits for the next check, and always if `runs_freely`.
    """

    def __init__(self, timeout: float) -> None:
        self.now = 1000.0
        self.timeout = timeout
        self.checked = asyncio.Event()
        self.checked.set()
        self.runs_freely = False

    def monotonic(self) -> float:
        """Return the time for connections."""
        return self.now

    def check(self) -> float:
        """Return the time for a check."""
        if self.runs_freely or not self.checked.is_set():
            self.now += self.timeout / 2
            self.checked.set()
        return self.now

    async def next_check(self) -> None:
        """Wait for the next check."""
        self.checked.clear()
        await self.checked.wait()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all connections."""
    clock = Clock(timeout=0.05)
    for_connections = SimpleNamespace(monotonic=clock.monotonic, time=time.time)
    monkeypatch.setattr(connection_module, "time", for_connections)
    monkeypatch.setattr(realtime_module, "time", SimpleNamespace(monotonic=clock.check))
    return clock


def test_client_that_sends_and_receives_nothing_gets_1001(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    app = echo_app(idle_timeout=0.05)

    @app.websocket("/silent")
    async def silent(connection: Admitted) -> None:
        assert [message async for message in connection] == []

    with connect(f"{serve(app)}/silent") as client:
        assert receive_all(client) == ([], 1001)
        assert client.close_reason == "idle"
    while "disconnected" not in caplog.messages:
        pass
    assert vars(caplog.records[caplog.messages.index("disconnected")])["reason"] == (
        "idle; see APP_IDLE_TIMEOUT"
    )


def test_client_that_only_listens_is_not_closed_while_it_is_sent_messages(
    serve_both_ways: Serve, clock: Clock
) -> None:
    app = echo_app(idle_timeout=clock.timeout)

    @app.websocket("/ticks")
    async def ticks(connection: Admitted) -> None:
        for number in range(10):
            await clock.next_check()
            await connection.send(str(number))
        clock.runs_freely = True
        async for _ in connection:
            pass

    with connect(f"{serve_both_ways(app)}/ticks") as client:
        expected = [str(number) for number in range(10)]
        assert receive_all(client) == (expected, 1001)
    assert clock.now >= 1000 + 5 * clock.timeout


def test_client_that_only_sends_is_not_closed(serve: Serve, clock: Clock) -> None:
    app = echo_app(idle_timeout=clock.timeout)
    received = []

    @app.websocket("/listen")
    async def listen(connection: Admitted) -> None:
        async for message in connection:
            received.append(message)
            await clock.next_check()
            await connection.websocket.send({"type": "websocket.send", "text": "next"})

    with connect(f"{serve(app)}/listen") as client:
        for number in range(10):
            client.send(str(number))
            client.recv(timeout=10)
        clock.runs_freely = True
        assert receive_all(client) == ([], 1001)
    assert clock.now >= 1000 + 5 * clock.timeout
    assert received == [str(number) for number in range(10)]
