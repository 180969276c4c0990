"""Reads that are cancelled or time out, and what an endpoint sees of the end."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable

import anyio
import pytest
from fastapi import FastAPI, HTTPException, WebSocketDisconnect, WebSocketException
from fastapi_realtime import Admitted, Identity
from fastapi_realtime.rooms import Rooms, RoomsDep, RoomSettings
from pydantic import JsonValue
from websockets.exceptions import InvalidStatus

from .room_app import EventsAdmitted, SubjectAsToken, connect_events, next_event, send
from .serving import (
    NO_RATE_LIMIT,
    Serve,
    connect,
    raw_client,
    read_to_end,
    realtime_app,
    receive_all,
    running,
    text_frame,
)

SIZES = (1, 1, 10, 100, 9_000, 9_000, 30_000)


async def read_with_cancellations(
    receive: Callable[[], Awaitable[str]], count: int, chance: random.Random
) -> list[str]:
    """Receive messages; cancel about every second call, some turns of the loop after its start."""
    received = []
    while len(received) < count:
        task = asyncio.ensure_future(receive())
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            received.append(task.result())
    return received


@pytest.fixture
def app() -> FastAPI:
    """An application that reads with cancellations, and sends back what it has got at the end."""
    settings = RoomSettings.model_validate(NO_RATE_LIMIT)
    app = realtime_app(settings, services=[Rooms(settings)])

    @app.websocket("/texts")
    async def texts(connection: Admitted[str, str], count: int, seed: int) -> None:
        received = await read_with_cancellations(connection.receive, count, random.Random(seed))
        await connection.send("".join(f"{text[:9]}{len(text)} " for text in received))

    @app.websocket("/json")
    async def json(connection: Admitted[JsonValue, str], count: int, seed: int) -> None:
        async def receive() -> str:
            return str(await connection.receive())

        received = await read_with_cancellations(receive, count, random.Random(seed))
        await connection.send("".join(f"{text[:9]}{len(text)} " for text in received))

    @app.websocket("/room")
    async def room(connection: EventsAdmitted, rooms: RoomsDep, count: int, seed: int) -> None:
        async with rooms.join(connection, "lobby", "zoe") as member:

            async def receive() -> str:
                return str((await member.receive()).data)

            received = await read_with_cancellations(receive, count, random.Random(seed))
        await connection.send_message("".join(f"{text[:9]}{len(text)} " for text in received))

    return app


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("path", ["texts", "json", "room"])
def test_reads_that_are_cancelled_lose_nothing_and_repeat_nothing(
    app: FastAPI, serve_both_ways: Serve, path: str, seed: int
) -> None:
    chance = random.Random(seed)
    texts = [f"{number:08} ".ljust(chance.choice(SIZES), "x") for number in range(200)]
    url = f"{serve_both_ways(app)}/{path}?count={len(texts)}&seed={seed}"
    with connect(url) as client:
        for text in texts:
            client.send(text if path != "json" else f'"{text}"')
            if path == "json" and chance.random() < 0.1:
                client.send("{")
        *errors, answer = receive_all(client)[0]
    assert answer == "".join(f"{text[:9]}{len(text)} " for text in texts)
    assert all(b"invalid_json" in bytes(str(each), "utf-8") for each in errors)


def test_a_read_that_times_out_can_be_repeated(serve_both_ways: Serve) -> None:
    app = realtime_app()

    @app.websocket("/patient")
    async def patient(connection: Admitted[str, str]) -> None:
        while True:
            try:
                async with asyncio.timeout(0.01):
                    message = await connection.receive()
            except TimeoutError:
                await connection.send("nothing yet")
            else:
                await connection.send(message)
                return

    with connect(f"{serve_both_ways(app)}/patient") as client:
        assert client.recv(timeout=10) == "nothing yet"
        client.send("Hello")
        assert receive_all(client)[0][-1] == "Hello"


BAD_FRAME = b"\x83\x80" + bytes(4)


@pytest.mark.parametrize("last", [BAD_FRAME, b""], ids=["invalid", "gone"])
def test_messages_before_an_abrupt_end_are_published(serve: Serve, last: bytes) -> None:
    settings = RoomSettings.model_validate(NO_RATE_LIMIT)
    app = realtime_app(settings, services=[Rooms(settings)])

    @app.websocket("/rooms/{sender}")
    async def room(connection: EventsAdmitted, rooms: RoomsDep, sender: str) -> None:
        async with rooms.join(connection, "lobby", sender) as member:
            while sender == "ann" and connection.is_open:
                await asyncio.sleep(0.001)  # until nothing can be sent
            async for message in member:
                await member.publish(message.data)

    url = serve(app)
    with connect(f"{url}/rooms/bob") as bob:
        with raw_client(url, "/rooms/ann") as ann:
            ann.sendall(b"".join(text_frame(b"%d" % number) for number in range(5)) + last)
            if last:
                read_to_end(ann)
        received = [bob.recv(timeout=10) for _ in range(5)]
    assert received == [f"New message: {number}" for number in range(5)]


async def by_receive(connection: Admitted[str, str]) -> None:
    """Receive for ever."""
    while True:
        await connection.receive()


async def by_anext(connection: Admitted[str, str]) -> None:
    """Receive for ever by the protocol of iterators."""
    messages = aiter(connection)
    while True:
        await anext(messages)


async def in_task_group(connection: Admitted[str, str]) -> None:
    """Receive in two tasks."""
    async with asyncio.TaskGroup() as group:
        group.create_task(by_receive(connection))
        group.create_task(by_receive(connection))


async def in_nested_groups(connection: Admitted[str, str]) -> None:
    """Receive in a group of anyio in one of asyncio."""
    async with asyncio.TaskGroup() as group, anyio.create_task_group() as inner:
        group.create_task(by_receive(connection))
        inner.start_soon(by_receive, connection)


async def in_three_loops(connection: Admitted[str, str]) -> None:
    """Iterate in three tasks."""

    async def iterate() -> None:
        async for _ in connection:
            pass

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(iterate())


@pytest.mark.parametrize(
    "endpoint", [by_receive, by_anext, in_task_group, in_nested_groups, in_three_loops]
)
def test_a_client_that_leaves_is_no_error_in_any_form_of_endpoint(
    serve_both_ways: Serve, endpoint: Callable[..., Awaitable[None]]
) -> None:
    app, codes, has_ended = realtime_app(), [], threading.Event()

    @app.websocket("/all")
    async def run(connection: Admitted[str, str]) -> None:
        await connection.send("ready")
        try:
            await endpoint(connection)
        finally:
            codes.append(connection.close_code)
            has_ended.set()

    with connect(f"{serve_both_ways(app)}/all") as client:
        client.recv(timeout=10)
        client.send("Hello")
    assert has_ended.wait(10)
    assert codes == [1000]


def test_a_member_that_leaves_is_no_error(serve_both_ways: Serve) -> None:
    settings = RoomSettings.model_validate(NO_RATE_LIMIT)
    app, texts, has_ended = (
        realtime_app(settings, services=[Rooms(settings)]),
        [],
        threading.Event(),
    )

    @app.websocket("/room")
    async def room(connection: EventsAdmitted, rooms: RoomsDep) -> None:
        async with rooms.join(connection, "lobby", "zoe") as member:
            try:
                while True:
                    texts.append((await member.receive()).data)
            finally:
                has_ended.set()

    with connect(f"{serve_both_ways(app)}/room") as client:
        client.send("Hello")
    assert has_ended.wait(10)
    assert texts == ["Hello"]


class SlowTokens(SubjectAsToken):
    """An authenticator that takes its time for a new token."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def verify(self, token: str) -> Identity:
        if token == "zoe/2":
            self.has_begun.set()
            await self.may_end.wait()
        return await super().verify(token)


def test_a_new_token_counts_if_the_read_that_met_it_is_cancelled(serve: Serve) -> None:
    settings, tokens = RoomSettings.model_validate(NO_RATE_LIMIT), SlowTokens()
    app = realtime_app(settings, services=[Rooms(settings)], authenticator=tokens)

    @app.websocket("/room")
    async def room(connection: EventsAdmitted, rooms: RoomsDep) -> None:
        async with rooms.join(connection, "lobby", "zoe") as member:
            reading = asyncio.ensure_future(member.receive())
            await tokens.has_begun.wait()
            reading.cancel()
            await asyncio.wait([reading])
            tokens.may_end.set()
            message = await member.receive()
            await member.publish(f"{message.data} {connection.identity.claims['token']}", "r")

    url = f"{serve(app)}/room"
    with connect_events(url, "zoe") as client, connect_events(url, "ann") as ann:
        client.send('{"type": "token", "token": "zoe/2"}')
        send(client, "hello")
        assert next_event(ann, "message")["data"] == "hello zoe/2"


def raising(*errors: Exception) -> Callable[[], Awaitable[None]]:
    """Return an endpoint whose tasks raise these exceptions."""

    async def fail(error: Exception) -> None:
        raise error

    async def endpoint() -> None:
        async with asyncio.TaskGroup() as group, asyncio.TaskGroup() as inner:
            for number, error in enumerate(errors):
                (group if number else inner).create_task(fail(error))

    return endpoint


FULL = WebSocketException(4010, "full")
GONE = WebSocketDisconnect(1001)


@pytest.mark.parametrize(
    ("errors", "status", "code"),
    [
        ([FULL], 403, 4010),
        ([FULL, WebSocketException(4010)], 403, 4010),
        ([FULL, GONE], 403, 4010),
        ([HTTPException(404), HTTPException(404)], 404, 1008),
    ],
)
def test_a_group_of_one_kind_is_that_status_or_code(
    serve: Serve, errors: list[Exception], status: int, code: int
) -> None:
    app = realtime_app()

    @app.websocket("/before")
    async def before(connection: Admitted) -> None:
        await raising(*errors)()

    @app.websocket("/after")
    async def after(connection: Admitted) -> None:
        await connection.accept()
        await raising(*errors)()

    url = serve(app)
    with pytest.raises(InvalidStatus) as refusal, connect(f"{url}/before"):
        pass
    assert refusal.value.response.status_code == status
    with connect(f"{url}/after") as client:
        assert receive_all(client)[1] == code


@pytest.mark.parametrize(
    "errors",
    [[FULL, WebSocketException(4011)], [FULL, LookupError()], [GONE, StopAsyncIteration()]],
)
def test_a_group_with_a_bug_is_a_bug(
    errors: list[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    app = realtime_app()

    @app.websocket("/after")
    async def after(connection: Admitted) -> None:
        await connection.accept()
        await raising(*errors)()

    with running(app) as url, connect(f"{url}/after") as client:
        assert receive_all(client)[1] == 1011
    assert "ExceptionGroup" in caplog.text
