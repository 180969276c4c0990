"""What the ASGI specification says, with a server that is strict about it.

https://asgi.readthedocs.io/en/latest/specs/www.html#websocket
"""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, WebSocketException
from fastapi_realtime import Admitted, RealtimeSettings
from starlette.types import Message

from .serving import NO_RATE_LIMIT, no_errors_logged, realtime_app, started

FIELDS: dict[str, dict[str, type]] = {
    "websocket.accept": {"subprotocol": str, "headers": list},
    "websocket.send": {"bytes": bytes, "text": str},
    "websocket.close": {"code": int, "reason": str},
    "websocket.http.response.start": {"status": int, "headers": list},
    "websocket.http.response.body": {"body": bytes, "more_body": bool},
}
"""Events that an application may send, with the types of their fields."""
REQUIRED = {"websocket.http.response.start": {"status"}}


async def serve_strictly(
    app: FastAPI, path: str, *received: Message, **scope: Any
) -> list[Message]:
    """Serve one connection with a scope that has no more than it must; return what is sent.

    It has a `query_string`, which the specification makes optional and Starlette does not.
    """
    events: list[Message] = [{"type": "websocket.connect"}, *received]
    headers = [(b"host", b"chat.example"), (b"origin", b"http://chat.example")]
    sent: list[Message] = []

    async def receive() -> Message:
        if not events:
            await asyncio.Event().wait()
        return events.pop(0)

    async def send(event: Message) -> None:
        fields = dict(event)
        types = FIELDS[fields.pop("type")]
        assert REQUIRED.get(event["type"], set()) <= fields.keys()
        for name, value in fields.items():
            assert value is None or type(value) is types[name], (event, name)
        await asyncio.sleep(0)  # as a server that waits for the network
        sent.append(event)

    required = {"type": "websocket", "asgi": {"version": "3.0"}, "path": path, "query_string": b""}
    async with asyncio.timeout(10):
        await app({**required, "headers": headers, **scope}, receive, send)
    return sent


@pytest.fixture
def app() -> FastAPI:
    """An application whose connections end in every way."""
    app = realtime_app(RealtimeSettings.model_validate(NO_RATE_LIMIT | {"max_message_bytes": 10}))

    @app.websocket("/echo")
    async def echo(connection: Admitted[str, str]) -> None:
        async for text in connection:
            await connection.send(text)

    @app.websocket("/ends/{end}")
    async def ends(connection: Admitted[str, str], end: int) -> None:
        await connection.send("hello")
        match end:
            case 1:
                await connection.close(4010, "enough")
            case 2:
                raise WebSocketException(4011)
            case 3:
                raise HTTPException(404)

    @app.websocket("/refused")
    async def refused(connection: Admitted) -> None:
        raise HTTPException(404)

    return started(app)


TEXT = {"type": "websocket.receive", "text": "hello"}
BYTES = {"type": "websocket.receive", "bytes": b"hello"}
LONG = {"type": "websocket.receive", "text": "hello, hello"}
GONE = {"type": "websocket.disconnect"}
DENIAL = {"websocket.http.response": {}}


@pytest.mark.anyio
async def test_a_connection_is_accepted_once_by_two_tasks(app: FastAPI) -> None:
    @app.websocket("/both")
    async def both(connection: Admitted[str, str]) -> None:
        await asyncio.gather(connection.send("a"), connection.send("b"))
        await connection.accept()

    accepted, *sent, _ = await serve_strictly(app, "/both")
    assert accepted["type"] == "websocket.accept"
    assert [event["text"] for event in sent] == ["a", "b"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "received", "last"),
    [
        ("/echo", [TEXT, GONE], ("websocket.send", None)),
        ("/echo", [TEXT, BYTES, GONE], ("websocket.close", 1003)),
        ("/echo", [TEXT, LONG, GONE], ("websocket.close", 1009)),
        ("/ends/0", [], ("websocket.close", 1000)),
        ("/ends/1", [], ("websocket.close", 4010)),
        ("/ends/2", [], ("websocket.close", 4011)),
        ("/ends/3", [], ("websocket.close", 1008)),
        ("/ends/x", [], ("websocket.close", 1000)),
        ("/refused", [], ("websocket.close", 1000)),
        ("/nowhere", [], ("websocket.close", 1000)),
    ],
)
async def test_every_field_is_as_the_specification_says(
    app: FastAPI, path: str, received: list[Message], last: tuple[str, int | None]
) -> None:
    with no_errors_logged():
        sent = await serve_strictly(app, path, *received)
    assert (sent[-1]["type"], sent[-1].get("code")) == last


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "status"), [("/ends/x", 422), ("/refused", 404), ("/nowhere", 404)]
)
async def test_refusals_are_responses_where_the_server_can_send_them(
    app: FastAPI, path: str, status: int
) -> None:
    sent = await serve_strictly(app, path, extensions=DENIAL)
    assert sent[0]["status"] == status
    assert sent[-1]["type"] == "websocket.http.response.body"
