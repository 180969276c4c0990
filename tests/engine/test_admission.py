"""Which clients are admitted; the others are refused before the handshake."""

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from fastapi_realtime import Admitted, RealtimeSettings
from fastapi_realtime.limits import ConnectionLimiter
from starlette.testclient import WebSocketDenialResponse
from websockets.exceptions import InvalidStatus

from .serving import NO_RATE_LIMIT, Serve, connect, dial, handshake, realtime_app, started, warning


def app_with(**settings: object) -> FastAPI:
    """An application with an endpoint that sends "hello"."""
    app = realtime_app(RealtimeSettings.model_validate(NO_RATE_LIMIT | settings))

    @app.websocket("/hello")
    async def hello(connection: Admitted) -> None:
        await connection.send("hello")
        async for _ in connection:
            pass

    @app.websocket("/broken")
    async def broken(connection: Admitted) -> None:
        raise LookupError("a bug in an endpoint")

    @app.get("/http")
    async def http() -> None:
        pass

    return started(app)


def admits(app: FastAPI, origin: str | None = None, page: str = "http://chat.example") -> bool:
    """Return whether a page of `origin` may connect to a server whose own pages are at `page`."""
    url = page.lower().replace("http", "ws", 1) + "/hello"
    headers = {} if origin is None else {"origin": origin}
    try:
        with TestClient(app).websocket_connect(url, headers=headers) as websocket:
            return websocket.receive_text() == "hello"
    except WebSocketDenialResponse as refusal:
        detail = {"detail": "origin not allowed"}
        if (refusal.status_code, refusal.json()) == (403, detail):
            return False
        raise


def test_own_page_and_programs_may_connect() -> None:
    app = app_with()
    assert admits(app)
    assert admits(app, "http://chat.example")
    assert admits(app, "https://chat.example", page="https://chat.example")
    assert admits(app, "http://chat.example:8000", page="http://chat.example:8000")


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://chat.example.evil.example",
        "http://evil.example/http://chat.example",
        "http://evilchat.example",
        "http://sub.chat.example",
        "http://chat.example.",
        "http://chat.example:8000",
        "http://chat.example/",
        "http://chat.example@evil.example",
        "http://me@chat.example",
        "http://chat.example evil.example",
        "http://chat.example, http://chat.example",
        "http://xn--cht-rla.example",
        "https://chat.example",
        "http://",
        "null",
        "",
    ],
)
def test_page_of_another_origin_is_refused(origin: str) -> None:
    assert not admits(app_with(), origin)


@pytest.mark.parametrize("same", ["HTTP://Chat.EXAMPLE", "http://chat.example:80"])
def test_origins_that_differ_in_case_or_default_port_are_the_same(same: str) -> None:
    assert admits(app_with(), same)
    assert admits(app_with(), "http://chat.example", page=same)


@pytest.mark.parametrize("origin", ["capacitor://localhost", "tauri://localhost", "app://."])
def test_app_in_a_shell_may_connect_if_its_origin_is_allowed(origin: str) -> None:
    assert admits(app_with(allowed_origins=origin), origin)
    assert not admits(app_with(), origin)


def test_origin_that_equals_an_invalid_host_header_is_refused() -> None:
    with TestClient(app_with()) as client:
        headers = {"host": "chat.example/", "origin": "http://chat.example/"}
        with (
            pytest.raises(WebSocketDenialResponse) as refusal,
            client.websocket_connect("/hello", headers=headers),
        ):
            pass
    assert refusal.value.status_code == 403


def test_own_origin_has_the_scheme_that_a_trusted_proxy_reports(serve: Serve) -> None:
    url = serve(app_with())
    assert ask(url, "Origin: https://chat.example\r\n").startswith(b"HTTP/1.1 101 ")
    assert ask(url, "Origin: http://chat.example\r\n").startswith(b"HTTP/1.1 403 ")
    twice = 2 * "Origin: https://chat.example\r\n"
    assert ask(url, twice).startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 "))
    assert ask(url, "Origin: https://ch\xe4t.example\r\n").startswith(b"HTTP/1.1 403 ")


def ask(url: str, origin: str) -> bytes:
    """Shake hands from behind a proxy that ends TLS; return the beginning of the answer."""
    with dial(url) as raw:
        headers = f"X-Forwarded-Proto: https\r\n{origin}"
        raw.sendall(handshake("/hello", headers, host="chat.example"))
        return raw.recv(1000)


def test_listed_origins_are_allowed() -> None:
    app = app_with(allowed_origins="https://www.example.com, http://localhost:5173")
    assert admits(app, "https://www.example.com")
    assert admits(app, "http://localhost:5173")
    assert admits(app, "http://chat.example")
    assert not admits(app, "http://www.example.com")
    assert not admits(app, "http://localhost")


def test_a_star_allows_any_origin() -> None:
    assert admits(app_with(allowed_origins="*"), "https://evil.example")


def test_clients_without_an_origin_can_be_refused() -> None:
    app = app_with(require_origin=True)
    assert admits(app, "http://chat.example")
    assert not admits(app)
    anywhere = app_with(require_origin=True, allowed_origins="*")
    assert admits(anywhere, "https://evil.example")
    assert not admits(anywhere)


def test_unknown_path_is_refused_with_404_and_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    url = serve(app_with())
    with pytest.raises(InvalidStatus) as refusal, connect(f"{url}/nowhere"):
        pass
    assert refusal.value.response.status_code == 404
    assert warning(caplog)["path"] == "/nowhere"


def test_refusal_is_an_http_response_and_one_line_in_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    url = serve(app_with())
    with (
        pytest.raises(InvalidStatus) as refusal,
        connect(f"{url}/hello", origin="https://evil.example\tdisguised"),
    ):
        pass
    assert refusal.value.response.status_code == 403
    assert refusal.value.response.body == b'{"detail":"origin not allowed"}'
    logged = warning(caplog)
    assert logged["message"] == "refused"
    assert logged["status"] == 403
    assert logged["reason"] == "origin not allowed; see APP_ALLOWED_ORIGINS"
    assert logged["origin"] == "https://evil.example\tdisguised"


def refused(client: TestClient) -> int:
    """Return the status of a refusal."""
    with (
        pytest.raises(WebSocketDenialResponse) as refusal,
        client.websocket_connect("/hello"),
    ):
        pass
    return refusal.value.status_code


def test_clients_over_the_limit_get_503_and_http_still_answers() -> None:
    app = app_with(max_connections=2)
    with TestClient(app) as client:
        with client.websocket_connect("/hello"), client.websocket_connect("/hello"):
            assert refused(client) == 503
            assert client.get("/http").status_code == 200
            assert app.state.realtime.is_ready
        with client.websocket_connect("/hello") as websocket:
            assert websocket.receive_text() == "hello"


def test_clients_of_one_address_over_the_limit_get_429() -> None:
    app = app_with(max_connections_per_ip=1)
    with TestClient(app) as client:
        with client.websocket_connect("/hello"):
            assert refused(client) == 429
        with client.websocket_connect("/hello") as websocket:
            assert websocket.receive_text() == "hello"


def test_behind_a_trusted_proxy_the_clients_addresses_count(serve: Serve) -> None:
    url = f"{serve(app_with(max_connections_per_ip=1))}/hello"
    with connect(url, behind="192.0.2.1"), connect(url, behind="192.0.2.2"):
        with pytest.raises(InvalidStatus) as refusal, connect(url, behind="192.0.2.1"):
            pass
        assert refusal.value.response.status_code == 429


def test_connection_no_longer_counts_after_its_endpoint_failed() -> None:
    app = app_with(max_connections=1)
    with TestClient(app) as client:
        for _ in range(3):
            with pytest.raises(LookupError), client.websocket_connect("/broken"):
                pass
        assert len(app.state.realtime.limiter) == 0
    assert app.state.realtime.connections == set()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2:aaaa:bbbb:cccc:dddd"),
        ("a unix socket", "a unix socket"),
    ],
)
def test_these_count_as_one_address(one: str, other: str) -> None:
    limiter = ConnectionLimiter(limit=10, limit_per_network=1)
    limiter.acquire(one)
    with pytest.raises(HTTPException) as refusal:
        limiter.acquire(other)
    assert refusal.value.status_code == 429
    limiter.release(one)
    limiter.acquire(other)


def test_neighbours_are_different_addresses() -> None:
    limiter = ConnectionLimiter(limit=10, limit_per_network=1)
    for host in ("192.0.2.1", "192.0.2.2", "2001:db8:1:2::1", "2001:db8:1:3::1"):
        limiter.acquire(host)
    assert len(limiter) == 4
