"""Messages have the types that an endpoint's signature declares."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Never

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocketDisconnect
from fastapi.testclient import TestClient
from fastapi_realtime import (
    Admission,
    Admitted,
    Connection,
    Subprotocol,
)
from fastapi_realtime.messages import MessageTypes
from pydantic import BaseModel, Field, JsonValue
from starlette.testclient import WebSocketTestSession

from .serving import realtime_app


class Order(BaseModel):
    """Order something."""

    type: Literal["order"] = "order"
    item: str = Field(alias="what")


class Cancel(BaseModel):
    """Cancel the order."""

    type: Literal["cancel"] = "cancel"


@dataclass
class Answer:
    """What became of it."""

    number: float
    order: Order | None = None


Message = Annotated[Order | Cancel, Field(discriminator="type")]
SHOUT = Subprotocol("shout", Order, str)


async def who(connection: Admitted) -> str:
    """A dependency that asks for the connection, too."""
    return connection.host


@pytest.fixture
def app() -> FastAPI:
    """An application with an endpoint for each kind of messages."""
    app, router, admission = realtime_app(), APIRouter(), Depends(Admission())

    @app.websocket("/text")
    async def text(connection: Admitted[str, str]) -> None:
        async for message in connection:
            await connection.send(message)

    @app.websocket("/binary")
    async def binary(connection: Admitted[bytes, bytes]) -> None:
        async for message in connection:
            await connection.send(message)

    @app.websocket("/silent")
    async def silent(connection: Admitted[Never, int]) -> None:
        await connection.send(1)
        assert [message async for message in connection] == []

    @router.websocket("/orders")
    async def orders(
        host: Annotated[str, Depends(who)], connection: Admitted[Message, Answer]
    ) -> None:
        async for message in connection:
            order = message if isinstance(message, Order) else None
            await connection.send(Answer(float("inf"), order))

    @app.websocket("/quoted")
    async def quoted(connection: "Admitted[JsonValue, JsonValue]") -> None:
        async for message in connection:
            await connection.send(message)

    @app.websocket("/default")
    async def default(connection: Connection[int, int] = admission) -> None:
        async for message in connection:
            await connection.send(message + 1)

    @app.websocket("/shout")
    async def shout(connection: Annotated[Connection[str, str], Depends(Admission(SHOUT))]) -> None:
        incoming: Any
        async for incoming in connection:
            is_order = isinstance(incoming, Order)
            await connection.send(incoming.item.upper() if is_order else incoming)

    app.include_router(router, prefix="/shop")
    return app


def close_code(websocket: WebSocketTestSession) -> tuple[int, str]:
    """Wait for the close frame."""
    with pytest.raises(WebSocketDisconnect) as closed:
        websocket.receive_text()
    return closed.value.code, closed.value.reason


def test_text_alone_refuses_binary(client: TestClient) -> None:
    with client.websocket_connect("/text") as websocket:
        websocket.send_text('"as it is"')
        assert websocket.receive_text() == '"as it is"'
        websocket.send_bytes(b"x")
        assert close_code(websocket) == (1003, "text expected")


def test_binary_alone_refuses_text(client: TestClient) -> None:
    with client.websocket_connect("/binary") as websocket:
        websocket.send_bytes(b"\x00")
        assert websocket.receive_bytes() == b"\x00"
        websocket.send_text("x")
        assert close_code(websocket) == (1003, "binary expected")


def test_where_no_message_is_declared_every_message_is_refused(client: TestClient) -> None:
    for send in ("send_text", "send_bytes"):
        with client.websocket_connect("/silent") as websocket:
            assert websocket.receive_text() == "1"
            getattr(websocket, send)("x" if send == "send_text" else b"x")
            assert close_code(websocket) == (1003, "no message expected")


def test_other_types_are_validated_and_sent_as_json(client: TestClient) -> None:
    with client.websocket_connect("/shop/orders") as websocket:
        websocket.send_json({"type": "order", "what": "tea"})
        answer = '{"number":null,"order":{"type":"order","what":"tea"}}'
        assert websocket.receive_text() == answer
        websocket.send_json({"type": "cancel"})
        assert websocket.receive_json() == {"number": None, "order": None}
        websocket.send_json({"type": "order", "what": 1})
        error = websocket.receive_json()["error"]
        assert (error["code"], error["path"]) == ("invalid_shape", "what")


def test_a_text_is_json_where_json_is_declared(client: TestClient) -> None:
    with client.websocket_connect("/quoted") as websocket:
        websocket.send_text('"tea"')
        assert websocket.receive_text() == '"tea"'


def test_types_are_found_in_the_older_style_of_dependencies(client: TestClient) -> None:
    with client.websocket_connect("/default") as websocket:
        websocket.send_text("1")
        assert websocket.receive_text() == "2"


def test_a_subprotocol_has_its_own_types(client: TestClient) -> None:
    with client.websocket_connect("/shout", ["shout"]) as websocket:
        websocket.send_json({"type": "order", "what": "tea"})
        assert websocket.receive_text() == "TEA"
    with client.websocket_connect("/shout") as websocket:
        websocket.send_text("tea")
        assert websocket.receive_text() == "tea"


def test_types_are_made_once_at_the_start_or_for_a_route_that_is_added_later(
    app: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = MessageTypes.__init__
    monkeypatch.setattr(
        MessageTypes, "__init__", lambda *types: made.append(types[1:]) or make(*types)
    )

    @app.websocket("/later")
    async def later(connection: Admitted[float, float]) -> None:
        await connection.send(1.5)

    for path in ("/text", "/later", "/later"):
        with client.websocket_connect(path):
            pass
    assert made == [(float, float)]


@pytest.mark.parametrize(
    "limited", [Annotated[str, Field(max_length=3)], Annotated[bytes, Field(min_length=1)]]
)
def test_limits_on_text_that_nobody_would_check_are_refused(limited: Any) -> None:
    with pytest.raises(TypeError, match="are not checked; take a pydantic model"):
        MessageTypes(limited, str)


class Alias:
    """What `type Texts = str | bytes` is, from Python 3.12 on."""

    __value__ = Annotated[str | bytes, Field(description="anything")]


def test_an_alias_stands_for_its_value() -> None:
    types = MessageTypes(Alias(), str)
    assert types.schema is None
    assert types.refused is None
