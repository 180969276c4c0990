"""Clients that leave while the server works for them, before the handshake and after it."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated

import fastapi_realtime.admission as admission
import fastapi_realtime.rooms.member as member
import fastapi_realtime.server.websocket_protocol as websocket_protocol
import pytest
from fastapi import Depends, FastAPI, WebSocket, WebSocketDisconnect
from fastapi_realtime import Admitted, Connection, Identity, RealtimeSettings
from fastapi_realtime.limits import LongMessages
from fastapi_realtime.rooms import Rooms, RoomsDep, RoomSettings
from starlette.types import Message
from websockets.exceptions import InvalidStatus

from .room_app import EventsAdmitted, SubjectAsToken, connect_events, next_event, request
from .serving import (
    NO_RATE_LIMIT,
    Serve,
    connect,
    dial,
    handshake,
    raw_client,
    realtime_app,
    running,
    text_frame,
)


class Work:
    """Work that never ends by itself."""

    def __init__(self) -> None:
        self.has_begun, self.has_ended = threading.Event(), threading.Event()

    async def run(self) -> None:
        self.has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.has_ended.set()


UNREAD = text_frame(b"unread") * 3
CLOSE = bytes([0x88, 0x80, 0, 0, 0, 0])


async def run(connection: Admitted[str, str], work: Work) -> None:
    """Work until the client leaves."""
    await connection.accept()
    await connection.run(work.run())


async def wait(connection: Admitted[str, str], work: Work) -> None:
    """Wait for the end, beside the work."""
    task = asyncio.create_task(work.run())
    await connection.wait_closed()
    task.cancel()


@pytest.mark.parametrize("endpoint", [run, wait])
@pytest.mark.parametrize("last", [b"", UNREAD, UNREAD + CLOSE], ids=["gone", "unread", "closed"])
def test_work_ends_when_its_client_leaves(
    serve_both_ways: Serve,
    endpoint: Callable[[Admitted[str, str], Work], Awaitable[None]],
    last: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket_protocol, "CLOSE_SECONDS", 60)
    app, work = realtime_app(), Work()

    @app.websocket("/work")
    async def works(connection: Admitted[str, str]) -> None:
        await endpoint(connection, work)

    with raw_client(serve_both_ways(app), "/work") as client:
        assert work.has_begun.wait(10)
        client.sendall(last)
        if last.endswith(CLOSE):
            assert work.has_ended.wait(10)
    assert work.has_ended.wait(10)


def test_work_ends_when_the_connection_is_closed(serve_both_ways: Serve) -> None:
    app, work = realtime_app(), Work()

    @app.websocket("/work")
    async def works(connection: Admitted[str, str]) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.run(work.run()))
            await connection.receive()
            await connection.close(4000)

    with connect(f"{serve_both_ways(app)}/work") as client:
        assert work.has_begun.wait(10)
        client.send("close")
        assert work.has_ended.wait(10)


def test_work_gives_its_result_or_its_exception(serve: Serve) -> None:
    app = realtime_app()

    async def give(result: str) -> str:
        if not result:
            raise TimeoutError("of the work itself")
        return result

    @app.websocket("/work")
    async def works(connection: Admitted[str, str]) -> None:
        async for text in connection:
            try:
                await connection.send(await connection.run(give(text)))
            except TimeoutError as error:
                await connection.send(str(error))

    with connect(f"{serve(app)}/work") as client:
        for text, answer in (("tea", "tea"), ("", "of the work itself"), ("milk", "milk")):
            client.send(text)
            assert client.recv(timeout=10) == answer


def test_a_connection_tells_its_end_without_a_reader(serve_both_ways: Serve) -> None:
    app, states, has_ended = realtime_app(), list[bool](), threading.Event()

    @app.websocket("/state")
    async def state(connection: Admitted[str, str]) -> None:
        await connection.send("ready")
        states.append(connection.is_open)
        await connection.wait_closed()
        states.append(connection.is_open)
        with pytest.raises(WebSocketDisconnect):
            await connection.run(asyncio.Event().wait())
        has_ended.set()

    with connect(f"{serve_both_ways(app)}/state") as client:
        client.recv(timeout=10)
    assert has_ended.wait(10)
    assert states == [True, False]


def test_a_member_whose_client_has_gone_leaves_though_its_endpoint_is_busy(
    serve_both_ways: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "LEAVE_SECONDS", 0.01)
    settings = RoomSettings.model_validate(NO_RATE_LIMIT)
    is_busy, may_end = threading.Event(), asyncio.Event()
    app = realtime_app(settings, services=[Rooms(settings)])

    @app.websocket("/rooms/{sender}")
    async def room(connection: EventsAdmitted, rooms: RoomsDep, sender: str) -> None:
        async with rooms.join(connection, "lobby", sender) as present:
            async for message in present:
                if message.data == "end":
                    may_end.set()
                elif message.data == "work":
                    is_busy.set()
                    await may_end.wait()
                    await present.publish("done", "ref")

    url = serve_both_ways(app)
    with connect_events(f"{url}/rooms/bob") as bob:
        assert next_event(bob, "joined")["sender"] == "bob"
        with connect_events(f"{url}/rooms/ann") as ann:
            ann.send('{"type": "message", "data": "work"}')
            assert next_event(bob, "joined")["sender"] == "ann"
            assert is_busy.wait(10)  # a close behind a message that is not read is answered later
        assert next_event(bob, "left")["sender"] == "ann"
        bob.send('{"type": "message", "data": "end"}')
        assert next_event(bob, "message")["data"] == "done"


class SlowOnce(SubjectAsToken):
    """An authenticator whose first look-up takes for ever."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    async def check_revoked(self, identity: Identity) -> None:
        if not self.work.has_begun.is_set():
            await self.work.run()


def app_with_slow_checks(where: str, work: Work) -> FastAPI:
    """An application whose first check takes for ever, with one connection for each address."""
    settings = RoomSettings.model_validate(NO_RATE_LIMIT | {"max_connections_per_ip": 1})

    class Policy:
        async def may_join(self, identity: Identity, room: str) -> bool:
            if where == "policy" and not work.has_begun.is_set():
                await work.run()
            return True

        async def may_publish(self, identity: Identity, room: str) -> bool:
            return True

    async def look_up() -> None:
        if where == "dependency" and not work.has_begun.is_set():
            await work.run()

    authenticator = SlowOnce(work) if where == "token" else SubjectAsToken()
    app = realtime_app(settings, services=[Rooms(settings, Policy())], authenticator=authenticator)

    @app.websocket("/room")
    async def room(
        connection: EventsAdmitted, rooms: RoomsDep, _: Annotated[None, Depends(look_up)]
    ) -> None:
        async with rooms.join(connection, "lobby", "zoe") as present:
            async for message in present:
                await present.publish(message.data)

    return app


CHECKS = ["token", "policy", "dependency"]


@pytest.mark.parametrize("where", CHECKS)
def test_a_check_ends_when_its_client_leaves(serve_both_ways: Serve, where: str) -> None:
    work = Work()
    url = serve_both_ways(app_with_slow_checks(where, work))
    with dial(url) as client:
        client.sendall(handshake("/room", "Authorization: Bearer zoe\r\n") + UNREAD)
        assert work.has_begun.wait(10)
        with pytest.raises(InvalidStatus), connect_events(f"{url}/room", "ann"):
            pytest.fail("there is one place")
    assert work.has_ended.wait(10)
    refusal: InvalidStatus | None = None
    while refusal is None or refusal.response.status_code == 429:  # until the place is free
        try:
            with connect_events(f"{url}/room", "ann") as ann:
                assert next_event(ann, "joined")
            return
        except InvalidStatus as error:
            refusal = error
    pytest.fail(str(refusal))


@pytest.mark.parametrize("where", CHECKS)
def test_checks_that_take_too_long_are_503(
    serve_both_ways: Serve, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "CHECK_SECONDS", 0.05)
    work = Work()
    url = serve_both_ways(app_with_slow_checks(where, work))
    with pytest.raises(InvalidStatus) as refusal, connect_events(f"{url}/room", "ann"):
        pass
    assert refusal.value.response.status_code == 503
    assert b"0.05 seconds" in (refusal.value.response.body or b"")
    assert work.has_ended.is_set()


def test_a_check_ends_when_the_server_stops() -> None:
    work = Work()
    app = app_with_slow_checks("dependency", work)
    refused: list[int] = []

    @app.get("/close")
    async def close() -> None:
        for connection in app.state.realtime.connections:
            connection.close_soon(1012, "restarting")

    def knock(url: str) -> None:
        with pytest.raises(InvalidStatus) as refusal, connect_events(f"{url}/room", "ann"):
            pass
        refused.append(refusal.value.response.status_code)

    with running(app) as url:
        thread = threading.Thread(target=knock, args=[url])
        thread.start()
        assert work.has_begun.wait(10)
        request(f"{url.replace('ws:', 'http:')}/close")
        thread.join(10)
    assert refused == [503]


@pytest.mark.parametrize("ends_before", ["join", "read"])
@pytest.mark.parametrize("end", [CLOSE, b""], ids=["closed", "gone"])
def test_all_messages_before_the_end_are_published_though_none_can_be_confirmed(
    serve_both_ways: Serve, end: bytes, ends_before: str
) -> None:
    settings = RoomSettings.model_validate(NO_RATE_LIMIT)
    app = realtime_app(settings, services=[Rooms(settings)])

    @app.websocket("/rooms/{sender}")
    async def room(connection: EventsAdmitted, rooms: RoomsDep, sender: str) -> None:
        await connection.accept()
        if sender == "ann" and ends_before == "join":
            await connection.wait_closed()
        async with rooms.join(connection, "lobby", sender) as present:
            if sender == "ann":
                await connection.wait_closed()
            async for message in present:
                await present.publish(message.data, message.ref)

    url = serve_both_ways(app)
    messages = [text_frame(b'{"type":"message","data":%d,"ref":"%d"}' % (n, n)) for n in range(60)]
    with (
        connect_events(f"{url}/rooms/bob") as bob,
        raw_client(url, "/rooms/ann", "Sec-WebSocket-Protocol: events.v1\r\n") as ann,
    ):
        ann.sendall(b"".join(messages) + end)
        if not end:
            ann.shutdown(socket.SHUT_WR)
        assert [next_event(bob, "message")["data"] for _ in range(60)] == list(range(60))


def test_an_endpoint_may_take_its_time_after_the_handshake(
    serve_both_ways: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "CHECK_SECONDS", 0.05)
    app = realtime_app(RealtimeSettings.model_validate(NO_RATE_LIMIT))

    @app.websocket("/slow")
    async def slow(connection: Admitted[str, str]) -> None:
        await connection.send("ready")
        await asyncio.sleep(0.1)  # longer than all checks may take
        await connection.send("done")

    with connect(f"{serve_both_ways(app)}/slow") as client:
        assert [client.recv(timeout=10) for _ in range(2)] == ["ready", "done"]


@pytest.mark.anyio
async def test_a_deadline_that_has_passed_is_left_alone() -> None:
    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        pass

    scope = {"type": "websocket", "client": None, "path": "/", "headers": []}
    websocket = WebSocket(scope, receive, send)
    connection = Connection(websocket, RealtimeSettings(), None, LongMessages())
    asyncio.get_running_loop().call_soon(connection.abort)  # in the same turn as the deadline
    with suppress(TimeoutError):
        async with asyncio.timeout(0) as connection.deadline:
            await asyncio.Event().wait()
    assert connection.deadline is not None
    assert connection.deadline.expired()
    await connection.accept()
