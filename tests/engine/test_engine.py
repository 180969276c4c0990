"""The engine: its services, its authenticator, and the dependencies of endpoints."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient
from fastapi_realtime import (
    Admission,
    Admitted,
    Connection,
    Identity,
    Realtime,
    RealtimeDep,
    Subprotocol,
)
from fastapi_realtime.realtime import current_settings
from fastapi_realtime.settings import RealtimeSettings
from pydantic import Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import WebSocketRoute
from starlette.testclient import WebSocketDenialResponse
from websockets.exceptions import InvalidStatus

from .room_app import connect_events, next_event, room_app, send
from .serving import Serve, connect, echo_app, own_records, realtime_app, receive_all


def test_an_application_that_was_not_started_says_how_to_start_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inner, outer = room_app(), FastAPI()
    outer.mount("/chat", inner)
    with pytest.raises(RuntimeError, match=r"with TestClient\(app\) as client"):
        TestClient(inner).websocket_connect("/rooms/tea").__enter__()
    for client in (TestClient(inner), TestClient(outer, root_path="")):
        path = "/rooms/tea" if client.app is inner else "/chat/rooms/tea"
        with pytest.raises(RuntimeError, match=r"app\.router\.lifespan_context\(app\)"):
            client.post(path, json="Hello")


def test_an_application_can_be_mounted_in_another(serve: Serve) -> None:
    app = room_app()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with app.router.lifespan_context(app):
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/chat", app)
    outer.state.realtime = app.state.realtime  # what the server of these tests looks at
    url = f"{serve(outer)}/chat/rooms/tea"
    with connect_events(url) as ann, connect_events(url) as bob:
        next_event(bob, "joined")
        send(ann, "Hello")
        assert next_event(bob, "message")["data"] == "Hello"
        assert len(app.state.realtime.connections) == 2
    assert not app.state.realtime.drain.has_begun


class Recorder:
    """A service that records what the engine does with it."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls
        self.is_ready = True

    @asynccontextmanager
    async def lifespan(self, realtime: Realtime) -> AsyncGenerator[None]:
        """Record start and stop."""
        self.calls.append(f"start {self.name}")
        yield
        self.calls.append(f"stop {self.name}")

    async def flush(self) -> None:
        """Record the flush."""
        self.calls.append(f"flush {self.name}")

    async def close_subject(self, subject: str) -> None:
        """Record the subject."""
        self.calls.append(f"close {subject}")


class OtherRecorder(Recorder):
    """A service of another type."""


class QueryAuthenticator:
    """Takes `?name=` for a client's subject, valid for `seconds`, unless it is `revoked`."""

    subprotocols = ("credentials",)
    security_schemes: ClassVar[dict[str, Any]] = {}

    def __init__(self, seconds: float = 600) -> None:
        self.expires = time.time() + seconds
        self.revoked = "revoked"

    async def identify(self, connection: HTTPConnection) -> Identity:
        """Return the identity of a client that has a name."""
        return await self.verify(connection.query_params.get("name", ""))

    async def verify(self, token: str) -> Identity:
        """Return the identity of a name."""
        if not token:
            raise HTTPException(401, "no name")
        return Identity(token, self.expires, {"sub": token})

    async def check_revoked(self, identity: Identity) -> None:
        """Refuse one name."""
        if identity.subject == self.revoked:
            raise HTTPException(401, "revoked")


def app_with(authenticator: QueryAuthenticator) -> FastAPI:
    """An application that sends clients their subject."""
    app = realtime_app(authenticator=authenticator)

    async def let_timers_run(connection: Admitted) -> None:
        await asyncio.sleep(0.01)

    @app.websocket("/subject")
    async def subject(
        connection: Admitted, waited: Annotated[None, Depends(let_timers_run)]
    ) -> None:
        await connection.send(connection.subject)
        async for _ in connection:
            pass

    return app


def test_services_run_in_order_as_long_as_the_application() -> None:
    calls: list[str] = []
    services = [Recorder("first", calls), OtherRecorder("second", calls)]
    with TestClient(realtime_app(services=services)):
        assert calls == ["start first", "start second"]
    assert calls[2:] == ["stop second", "stop first"]


@pytest.mark.anyio
async def test_drain_flushes_services() -> None:
    calls: list[str] = []
    realtime = Realtime(RealtimeSettings(), services=[Recorder("only", calls)])
    await realtime.drain.run()
    assert calls == ["flush only"]


def test_service_is_found_by_its_type() -> None:
    services = [Recorder("first", []), OtherRecorder("second", [])]
    realtime = Realtime(RealtimeSettings(), services=services)
    assert realtime.service(OtherRecorder) is services[1]
    with pytest.raises(LookupError, match="there is no service OtherRecorder"):
        Realtime(RealtimeSettings(), services=services[:1]).service(OtherRecorder)


@pytest.mark.parametrize(
    ("query", "detail"), [("", "no name"), ("?name=revoked", "revoked")], ids=["unknown", "revoked"]
)
def test_client_that_is_not_authenticated_is_refused_with_401(query: str, detail: str) -> None:
    app = app_with(QueryAuthenticator())
    with (
        TestClient(app) as client,
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect(f"/subject{query}"),
    ):
        pass
    assert (refused.value.status_code, refused.value.json()) == (401, {"detail": detail})
    assert app.state.realtime.connections == set()


def test_authenticated_client_has_a_subject_and_its_subprotocol(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    offered = ["another", "credentials"]
    with (
        TestClient(app_with(QueryAuthenticator())) as client,
        client.websocket_connect("/subject?name=zoe", subprotocols=offered) as websocket,
    ):
        assert websocket.receive_text() == "zoe"
        assert websocket.accepted_subprotocol == "credentials"
    lines = own_records(caplog)
    assert [(each.message, vars(each)["subject"]) for each in lines] == [
        ("connected", "zoe"),
        ("disconnected", "zoe"),
    ]


def test_connection_closes_with_4401_when_its_identity_expires(serve: Serve) -> None:
    app = realtime_app(authenticator=QueryAuthenticator(seconds=600))

    @app.websocket("/expiring")
    async def expiring(connection: Admitted) -> None:
        await connection.send(connection.subject)
        connection.close_at(connection.identity.expires - 600)
        async for _ in connection:
            pass

    with connect(f"{serve(app)}/expiring?name=zoe") as client:
        assert receive_all(client) == (["zoe"], 4401)
        assert client.close_reason == "token expired"


def test_identity_that_expires_before_the_handshake_is_refused_with_401() -> None:
    with (
        TestClient(app_with(QueryAuthenticator(seconds=0))) as client,
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect("/subject?name=zoe"),
    ):
        pass
    assert refused.value.status_code == 401
    assert refused.value.json() == {"detail": "token expired"}


def renewing_app(authenticator: QueryAuthenticator | None = None) -> FastAPI:
    """An application that takes every message for a new token, and answers with its subject."""
    app = realtime_app(authenticator=authenticator)

    @app.websocket("/renew")
    async def renew(connection: Admitted[str, str], realtime: RealtimeDep) -> None:
        async for token in connection:
            try:
                identity = await realtime.renew(connection, token)
            except HTTPException as refusal:
                await connection.send(f"{refusal.status_code} {connection.subject}")
            else:
                await connection.send(identity.subject)
                connection.renew(identity)

    return app


def test_new_token_of_the_same_subject_changes_when_the_connection_closes(serve: Serve) -> None:
    authenticator = QueryAuthenticator()
    with connect(f"{serve(renewing_app(authenticator))}/renew?name=zoe") as client:
        client.send("zoe")
        assert client.recv(timeout=10) == "zoe"
        authenticator.expires = time.time()  # the answer is on its way before the timer runs
        client.send("zoe")
        assert receive_all(client) == (["zoe"], 4401)
        assert client.close_reason == "token expired"


def test_old_expiry_no_longer_counts_after_a_renewal(serve_both_ways: Serve) -> None:
    app = realtime_app()

    @app.websocket("/renew")
    async def renew(connection: Admitted) -> None:
        await connection.accept()
        connection.close_at(time.time() + 0.02)
        connection.renew(Identity("zoe", time.time() + 600, {"role": "admin"}))
        await asyncio.sleep(0.05)  # a later timer than that of the old expiry
        await connection.send(f"{connection.identity.claims['role']} {connection.subject}")

    with connect(f"{serve_both_ways(app)}/renew") as client:
        assert receive_all(client) == (["admin zoe"], 1000)


def test_connections_of_a_subject_are_closed_and_no_others(serve: Serve) -> None:
    app = realtime_app(authenticator=QueryAuthenticator())

    @app.websocket("/close")
    async def close(connection: Admitted[str, str], realtime: RealtimeDep) -> None:
        await connection.accept()
        async for subject in connection:
            await connection.send(str(realtime.close_subject(subject)))

    url = f"{serve(app)}/close?name="
    with connect(f"{url}zoe") as first, connect(f"{url}zoe") as second, connect(f"{url}ann") as ann:
        ann.send("zoe")
        assert ann.recv(timeout=10) == "2"
        assert receive_all(first) == receive_all(second) == ([], 4401)
        ann.send("nobody")
        assert ann.recv(timeout=10) == "0"


def test_closing_connection_is_not_renewed(serve: Serve) -> None:
    app = realtime_app()
    identities: list[Identity] = []

    @app.websocket("/renew")
    async def renew(connection: Admitted) -> None:
        await connection.accept()
        connection.close_soon(4401, "token revoked")
        connection.renew(Identity("zoe", time.time() + 600, {}))
        identities.append(connection.identity)

    with connect(f"{serve(app)}/renew") as client:
        assert receive_all(client) == ([], 4401)
    assert identities[0].subject == ""


@pytest.mark.parametrize(
    ("token", "answer"),
    [("", "401 zoe"), ("ann", "403 zoe"), ("zoe", "zoe")],
    ids=["invalid", "other subject", "good"],
)
def test_new_token_is_checked_and_changes_nothing_when_refused(token: str, answer: str) -> None:
    with (
        TestClient(renewing_app(QueryAuthenticator())) as client,
        client.websocket_connect("/renew?name=zoe") as websocket,
    ):
        websocket.send_text(token)
        assert websocket.receive_text() == answer


def test_revoked_token_renews_nothing() -> None:
    authenticator = QueryAuthenticator()
    with (
        TestClient(renewing_app(authenticator)) as client,
        client.websocket_connect("/renew?name=zoe") as websocket,
    ):
        authenticator.revoked = "zoe"
        websocket.send_text("zoe")
        assert websocket.receive_text() == "401 zoe"


def test_there_is_nothing_to_renew_without_tokens() -> None:
    with (
        TestClient(renewing_app()) as client,
        client.websocket_connect("/renew") as websocket,
    ):
        websocket.send_text("zoe")
        assert websocket.receive_text() == "403 "


def test_mounted_application_uses_the_engine_of_its_parent(serve_both_ways: Serve) -> None:
    app, mounted = realtime_app(authenticator=QueryAuthenticator()), FastAPI()
    app.mount("/static", StaticFiles(directory=Path(__file__).parent))

    @mounted.websocket("/who")
    async def who(connection: Admitted[str, str]) -> None:
        async for text in connection:
            await connection.send(f"{connection.subject}: {text}")

    @mounted.get("/open")
    async def count(realtime: RealtimeDep) -> int:
        return len(realtime.connections)

    app.mount("/sub", mounted)
    url = f"{serve_both_ways(app)}/sub/who"
    with connect(f"{url}?name=zoe") as client:
        client.send("hello")
        assert client.recv(timeout=10) == "zoe: hello"
    assert TestClient(app).get("/sub/open").json() == 0
    with pytest.raises(InvalidStatus, match="401"):
        connect(url)


def test_mounted_application_keeps_its_own_answers_to_exceptions() -> None:
    mounted = FastAPI()

    @mounted.exception_handler(StarletteHTTPException)
    async def answer(request: HTTPConnection, error: Exception) -> JSONResponse:
        return JSONResponse("own", 404)

    app = realtime_app()
    app.mount("/sub", mounted)
    with TestClient(app) as client:
        assert client.get("/sub/nowhere").json() == "own"


class Bad(Protocol):
    """What pydantic has no schema for."""


def bad_app(declared: Any) -> FastAPI:
    """An application with a mounted one that has a bad endpoint."""
    app, mounted = realtime_app(), FastAPI()

    @mounted.websocket("/bad")
    async def bad(connection: declared) -> None:
        """Never run."""

    app.mount("/sub", mounted)
    return app


@pytest.mark.parametrize(
    "declared",
    [
        Admitted[Annotated[str, Field(max_length=5)], str],
        Admitted[Bad, str],
        Admitted[str, list[Bad]],
        Annotated[Connection[str, str], Depends(Admission("v0", Subprotocol("v1", Bad, str)))],
    ],
    ids=["limits", "incoming", "outgoing", "subprotocol"],
)
def test_message_types_that_cannot_work_stop_the_start(declared: Any) -> None:
    with pytest.raises(TypeError, match="the message types of /sub/bad can't be used: "):
        TestClient(bad_app(declared)).__enter__()


def test_a_route_of_starlette_declares_nothing_and_stops_no_start() -> None:
    async def greet(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")

    app = realtime_app()
    app.router.routes.append(WebSocketRoute("/plain", greet))
    with TestClient(app) as client, client.websocket_connect("/plain") as websocket:
        assert websocket.receive_text() == "hello"


def test_endpoint_that_is_added_after_the_start_works() -> None:
    app = realtime_app()
    with TestClient(app) as client:

        @app.websocket("/late")
        async def late(connection: Admitted[int, int]) -> None:
            async for number in connection:
                await connection.send(number + 1)

        with client.websocket_connect("/late") as websocket:
            websocket.send_text("1")
            assert websocket.receive_text() == "2"


def test_http_routes_get_the_settings_too() -> None:
    app = realtime_app(RealtimeSettings(max_message_bytes=24))

    @app.get("/limit")
    async def limit(settings: Annotated[RealtimeSettings, Depends(current_settings)]) -> int:
        return settings.max_message_bytes

    assert TestClient(app).get("/limit").json() == 24


def test_modules_are_kept_out_of_garbage_collection_while_the_application_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))
    monkeypatch.setattr(gc, "unfreeze", lambda: calls.append("unfreeze"))
    with TestClient(echo_app()):
        assert calls == ["freeze"]
    assert calls == ["freeze", "unfreeze"]
