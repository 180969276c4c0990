"""What a client sees when an endpoint or a dependency raises."""

import asyncio
import logging
from typing import Annotated, Any

import pytest
from fastapi import (
    Cookie,
    Depends,
    FastAPI,
    HTTPException,
    Path,
    Query,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.exceptions import WebSocketException
from fastapi.testclient import TestClient
from fastapi_realtime import Admitted, CloseCode, admission
from fastapi_realtime.connection import Connection
from fastapi_realtime.errors import close_code_for
from fastapi_realtime.limits import LongMessages
from fastapi_realtime.rooms import BrokerUnavailable
from fastapi_realtime.settings import RealtimeSettings
from starlette.testclient import WebSocketDenialResponse
from starlette.types import Message
from websockets.exceptions import InvalidStatus

from .serving import (
    STOCK,
    Serve,
    WrapSend,
    connect,
    echo_app,
    own_records,
    raw_client,
    read_to_end,
    realtime_app,
    receive_all,
    running,
    text_frame,
)


def failure(kind: str) -> Exception:
    """Return the exception of this kind."""
    return {
        "websocket": WebSocketException(4003, "not for you"),
        "http": HTTPException(410, "gone", {"X-Why": "old"}),
        "unavailable": BrokerUnavailable(),
        "bug": LookupError("a bug in an endpoint"),
        "code": WebSocketException(1005, "a code that can't be sent"),
    }[kind]


async def session(session: Annotated[str | None, Cookie()] = None) -> str:
    """Require a cookie, as the tutorial of FastAPI does."""
    if session is None:
        raise WebSocketException(1008)
    return session


async def first_word(connection: Admitted[str, str]) -> str:
    """Use the connection before the endpoint does."""
    async for word in connection:
        return word
    raise AssertionError


@pytest.fixture
def app() -> FastAPI:
    """An application whose endpoints fail in every way."""
    app = echo_app()

    @app.websocket("/before/{kind}")
    async def before(connection: Admitted, kind: str) -> None:
        raise failure(kind)

    @app.websocket("/after/{kind}")
    async def after(connection: Admitted, kind: str) -> None:
        await connection.send("hello")
        raise failure(kind)

    @app.websocket("/unused")
    async def unused(connection: Admitted) -> None:
        pass

    @app.websocket("/own")
    async def own(connection: Admitted) -> None:
        await connection.close(4003, "é" * 100)

    @app.websocket("/raw/{kind}")
    async def raw(websocket: WebSocket, kind: str) -> None:
        await websocket.accept()
        if kind == "closed":
            await websocket.close(4000)
            kind = "http"
        raise failure(kind)

    add_endpoints_with_parameters(app)
    return app


def add_endpoints_with_parameters(app: FastAPI) -> None:
    """Add endpoints whose parameters or dependencies may fail."""

    @app.websocket("/session")
    async def with_session(connection: Admitted, session: Annotated[str, Depends(session)]) -> None:
        await connection.send(session)

    @app.websocket("/number/{n}")
    async def number(
        connection: Admitted, n: Annotated[int, Path()], m: Annotated[int, Query()] = 0
    ) -> None:
        await connection.send(str(n + m))

    @app.websocket("/late")
    async def late(
        connection: Admitted, word: Annotated[str, Depends(first_word)], n: Annotated[int, Query()]
    ) -> None:
        raise AssertionError


def refusal(client: TestClient, url: str, **options: Any) -> WebSocketDenialResponse:
    """Return the response to a handshake that is refused."""
    with (
        pytest.raises(WebSocketDenialResponse) as refusal,
        client.websocket_connect(url, **options),
    ):
        pass
    return refusal.value


@pytest.mark.parametrize(
    ("kind", "status", "detail"), [("websocket", 403, "not for you"), ("http", 410, "gone")]
)
def test_exception_before_the_handshake_is_a_response_and_one_line_in_the_log(
    client: TestClient, caplog: pytest.LogCaptureFixture, kind: str, status: int, detail: str
) -> None:
    response = refusal(client, f"/before/{kind}")
    assert (response.status_code, response.json()) == (status, {"detail": detail})
    assert ("x-why" in response.headers) == (kind == "http")
    (line,) = own_records(caplog)
    assert (line.levelname, line.message) == ("WARNING", "refused")
    assert (vars(line)["status"], vars(line)["reason"]) == (status, detail)


@pytest.mark.parametrize("middleware", [[], [WrapSend]], ids=["direct", "portable"])
@pytest.mark.parametrize(
    ("kind", "code", "reason"),
    [
        ("websocket", 4003, "not for you"),
        ("http", 1008, "gone"),
        ("unavailable", 1013, "rooms are not available now; try again later"),
    ],
)
def test_exception_after_the_handshake_closes_and_is_one_line_in_the_log(
    app: FastAPI,
    caplog: pytest.LogCaptureFixture,
    middleware: list[type[WrapSend]],
    kind: str,
    code: int,
    reason: str,
) -> None:
    caplog.set_level(logging.INFO)
    for each in middleware:
        app.add_middleware(each)
    with running(app) as url, connect(f"{url}/after/{kind}") as client:
        assert receive_all(client) == (["hello"], code)
        assert client.close_reason == reason
    own = own_records(caplog)
    ends = [each for each in own if each.message == "disconnected"]
    assert [(vars(each)["code"], vars(each)["reason"]) for each in ends] == [(code, reason)]
    assert "refused" not in [each.message for each in own]


def test_exception_with_a_code_that_cannot_be_sent_closes_with_1011(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    with running(app) as url, connect(f"{url}/after/code") as client:
        assert receive_all(client) == (["hello"], 1011)
    assert "close code 1005 can't be sent" in caplog.text


@pytest.mark.parametrize("middleware", [[], [WrapSend]], ids=["direct", "portable"])
def test_close_code_of_a_client_is_logged_when_it_closes_during_an_answer(
    app: FastAPI, caplog: pytest.LogCaptureFixture, middleware: list[type[WrapSend]]
) -> None:
    caplog.set_level(logging.INFO)
    for each in middleware:
        app.add_middleware(each)
    with running(app) as url, raw_client(url, "/all") as raw:
        close = bytes([0x88, 0x85, 0, 0, 0, 0]) + (4001).to_bytes(2, "big") + b"bye"
        raw.sendall(text_frame(b"1") + text_frame(b"2") + close)
        read_to_end(raw)
    (end,) = [vars(each) for each in caplog.records if each.message == "disconnected"]
    assert (end["code"], end["reason"]) == (4001, "bye")


def test_bug_before_the_handshake_is_500(app: FastAPI) -> None:
    with running(app) as url:
        with pytest.raises(InvalidStatus) as refused, connect(f"{url}/before/bug"):
            pass
        assert refused.value.response.status_code == 500


def test_dependency_that_raises_refuses_the_handshake(app: FastAPI, serve: Serve) -> None:
    url = serve(app)
    with pytest.raises(InvalidStatus) as refused, connect(f"{url}/session"):
        pass
    assert refused.value.response.status_code == 403
    headers = {"cookie": "session=mine"}
    with TestClient(app).websocket_connect("/session", headers=headers) as websocket:
        assert websocket.receive_text() == "mine"


@pytest.mark.parametrize(
    ("url", "parameter"), [("/number/one", "path.n"), ("/number/1?m=two", "query.m")]
)
def test_invalid_parameter_is_422_in_any_order_of_parameters(
    client: TestClient, caplog: pytest.LogCaptureFixture, url: str, parameter: str
) -> None:
    response = refusal(client, url)
    assert response.status_code == 422
    assert ".".join(response.json()["detail"][0]["loc"]) == parameter
    assert f"invalid parameter {parameter}" in [vars(each).get("reason") for each in caplog.records]
    with client.websocket_connect("/number/1?m=2") as websocket:
        assert websocket.receive_text() == "3"


def test_invalid_parameter_closes_with_1008_after_the_handshake(app: FastAPI, serve: Serve) -> None:
    with connect(f"{serve(app)}/late?n=one") as client:
        client.send("word")
        assert receive_all(client) == ([], 1008)


def test_endpoint_that_never_uses_its_connection_closes_with_1000(
    app: FastAPI, serve_both_ways: Serve
) -> None:
    with connect(f"{serve_both_ways(app)}/unused") as client:
        assert receive_all(client) == ([], 1000)


def test_endpoint_may_close_with_its_own_code(app: FastAPI, serve: Serve) -> None:
    with connect(f"{serve(app)}/own") as client:
        assert receive_all(client) == ([], 4003)
        assert client.close_reason == "é" * 61  # 122 of 123 bytes


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_code_that_must_not_be_sent_is_a_value_error(code: int) -> None:
    with pytest.raises(ValueError, match=str(code)):
        close_code_for(WebSocketException(code))


@pytest.mark.parametrize(("kind", "code"), [("websocket", 4003), ("http", 1008), ("closed", 4000)])
def test_exceptions_close_routes_without_admission_too(
    app: FastAPI, serve: Serve, kind: str, code: int
) -> None:
    with connect(f"{serve(app)}/raw/{kind}") as client:
        assert receive_all(client) == ([], code)


def test_connection_closed_before_its_handshake_is_refused_with_503(
    app: FastAPI, client: TestClient
) -> None:
    async def close_meanwhile(connection: Admitted) -> None:
        connection.close_soon(CloseCode.SERVICE_RESTART, "restarting")

    @app.websocket("/closed")
    async def closed(connection: Admitted, _: Annotated[None, Depends(close_meanwhile)]) -> None:
        await connection.send("too late")

    response = refusal(client, "/closed")
    assert (response.status_code, response.json()) == (503, {"detail": "restarting"})


@pytest.mark.anyio
async def test_concurrent_uses_accept_once_and_a_close_meanwhile_follows() -> None:
    sent: list[str] = []
    go_on = asyncio.Event()

    async def send(message: Message) -> None:
        sent.append(message["type"])
        await go_on.wait()

    scope = {"type": "websocket", "client": None, "path": "/", "headers": []}
    websocket = WebSocket(scope, receive_connect, send)
    connection = Connection(websocket, RealtimeSettings(), None, LongMessages())
    uses = [asyncio.create_task(connection.accept()) for _ in range(2)]
    await asyncio.sleep(0)
    connection.close_soon(CloseCode.SERVICE_RESTART, "restarting")
    go_on.set()
    await asyncio.gather(*uses)
    await connection.close()
    assert sent == ["websocket.accept", "websocket.close"]
    assert connection.close_code == 1012


async def receive_connect() -> Message:
    """Receive the first message of a connection."""
    return {"type": "websocket.connect"}


@pytest.mark.anyio
async def test_client_that_leaves_before_the_handshake_is_a_disconnect() -> None:
    async def send(message: Message) -> None:
        raise OSError

    scope = {"type": "websocket", "client": None, "path": "/", "headers": []}
    connection = Connection(
        WebSocket(scope, receive_connect, send), RealtimeSettings(), None, LongMessages()
    )
    with pytest.raises(WebSocketDisconnect) as disconnect:
        await connection.send("hello")
    await admission.close_after(connection, disconnect.value)


def test_http_routes_answer_exceptions_as_usual(app: FastAPI) -> None:
    @app.get("/gone")
    async def gone() -> None:
        raise failure("http")

    response = TestClient(app).get("/gone")
    assert (response.status_code, response.json()) == (410, {"detail": "gone"})


@pytest.mark.parametrize("protocols", [STOCK, {}], ids=["stock", "own"])
@pytest.mark.parametrize(("end", "status"), [("close", 403), ("return", 500)])
def test_routes_without_admission_may_leave_a_handshake_unanswered(
    caplog: pytest.LogCaptureFixture, protocols: dict[str, object], end: str, status: int
) -> None:
    app = realtime_app()

    @app.websocket("/raw")
    async def raw(websocket: WebSocket) -> None:
        if end == "close":
            await websocket.close()

    @app.websocket("/refused")
    async def refused(connection: Admitted) -> None:
        raise HTTPException(404)

    with running(app, **protocols) as url:
        with pytest.raises(InvalidStatus) as refusal, connect(f"{url}/refused"):
            pass
        assert refusal.value.response.status_code == 404
        assert "without completing handshake" not in caplog.text
        with pytest.raises(InvalidStatus) as refusal, connect(f"{url}/raw"):
            pass
    assert refusal.value.response.status_code == status
    assert ("without completing handshake" in caplog.text) == (end == "return")
