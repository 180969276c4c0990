"""Who may connect, and who is told before the handshake that they may not."""

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from {{ cookiecutter.__package_name }}.admission import Admitted
from {{ cookiecutter.__package_name }}.limits import (
    JoinLimiter,
    Places,
)
from starlette.testclient import WebSocketDenialResponse
from websockets.exceptions import InvalidStatus

from {{ cookiecutter.__package_name }}.main import create_app
from {{ cookiecutter.__package_name }}.settings import Settings

from .conftest import Serve, connect, dial, handshake, introduce, warning


def app_with(**settings: object) -> FastAPI:
    """An application with an endpoint that says hello."""
    app = create_app(Settings.model_validate(settings))

    @app.websocket("/hello")
    async def hello(connection: Admitted) -> None:
        await connection.send("hello")
        async for _ in connection:
            pass

    @app.websocket("/broken")
    async def broken(connection: Admitted) -> None:
        raise LookupError("a bug in an endpoint")

    return app


def admits(app: FastAPI, origin: str | None = None, page: str = "http://chat.example") -> bool:
    """Try to connect from an origin to a server whose own pages are at `page`."""
    url, headers = introduce(page.lower().replace("http", "ws", 1) + "/hello")
    if origin is not None:
        headers["origin"] = origin
    try:
        with TestClient(app).websocket_connect(url, headers=headers) as websocket:
            return websocket.receive_text() == "hello"
    except WebSocketDenialResponse as refusal:
        return (refusal.status_code, refusal.json()) != (403, {"detail": "origin not allowed"})


def test_our_own_page_and_programs_may_connect() -> None:
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
def test_any_other_page_is_refused(origin: str) -> None:
    assert not admits(app_with(), origin)


@pytest.mark.parametrize("same", ["HTTP://Chat.EXAMPLE", "http://chat.example:80"])
def test_an_origin_is_a_scheme_a_host_and_a_port_however_they_are_written(same: str) -> None:
    assert admits(app_with(), same)
    assert admits(app_with(), "http://chat.example", page=same)


def test_a_host_that_is_none_has_no_pages() -> None:
    with TestClient(app_with(), headers=introduce("")[1]) as client:
        headers = {"host": "chat.example/", "origin": "http://chat.example/"}
        with (
            pytest.raises(WebSocketDenialResponse) as refusal,
            client.websocket_connect("/hello", headers=headers),
        ):
            pass
    assert refusal.value.status_code == 403


def test_behind_a_trusted_proxy_our_pages_are_where_it_says(serve: Serve) -> None:
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


def test_other_origins_are_allowed_by_name() -> None:
    app = app_with(allowed_origins="https://www.example.com, http://localhost:5173")
    assert admits(app, "https://www.example.com")
    assert admits(app, "http://localhost:5173")
    assert admits(app, "http://chat.example")
    assert not admits(app, "http://www.example.com")
    assert not admits(app, "http://localhost")


def test_a_star_allows_any_origin() -> None:
    assert admits(app_with(allowed_origins="*"), "https://evil.example")


def test_browsers_only() -> None:
    app = app_with(require_origin=True)
    assert admits(app, "http://chat.example")
    assert not admits(app)
    anywhere = app_with(require_origin=True, allowed_origins="*")
    assert admits(anywhere, "https://evil.example")
    assert not admits(anywhere)


def test_a_path_that_is_not_there_is_refused_like_anything_else(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    url = serve(app_with())
    with pytest.raises(InvalidStatus) as refusal, connect(f"{url}/nowhere"):
        pass
    assert refusal.value.response.status_code == 404
    assert warning(caplog)["path"] == "/nowhere"


def test_a_refusal_is_a_real_response_and_one_line_in_the_log(
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
    assert logged["origin"] == "https://evil.example\tdisguised"


def refused(client: TestClient) -> int:
    """Return the status of a refusal."""
    with (
        pytest.raises(WebSocketDenialResponse) as refusal,
        client.websocket_connect("/hello"),
    ):
        pass
    return refusal.value.status_code


def test_when_all_places_are_taken_others_get_503_and_health_still_answers() -> None:
    app = app_with(max_connections=2)
    with TestClient(app, headers=introduce("")[1]) as client:
        with client.websocket_connect("/hello"), client.websocket_connect("/hello"):
            assert refused(client) == 503
            assert client.get("/livez").status_code == 200
            assert client.get("/readyz").status_code == 200
        with client.websocket_connect("/hello") as websocket:
            assert websocket.receive_text() == "hello"


def test_one_address_does_not_get_all_places() -> None:
    app = app_with(max_connections_per_ip=1)
    with TestClient(app, headers=introduce("")[1]) as client:
        with client.websocket_connect("/hello"):
            assert refused(client) == 429
        with client.websocket_connect("/hello") as websocket:
            assert websocket.receive_text() == "hello"


def test_addresses_behind_a_trusted_proxy_count_and_not_its_own(serve: Serve) -> None:
    url = f"{serve(app_with(max_connections_per_ip=1))}/hello"
    with connect(url, behind="192.0.2.1"), connect(url, behind="192.0.2.2"):
        with pytest.raises(InvalidStatus) as refusal, connect(url, behind="192.0.2.1"):
            pass
        assert refusal.value.response.status_code == 429


def test_a_place_is_given_back_when_an_endpoint_fails(caplog: pytest.LogCaptureFixture) -> None:
    app = app_with(max_connections=1)
    with TestClient(app, headers=introduce("")[1]) as client:
        for _ in range(3):
            with pytest.raises(LookupError), client.websocket_connect("/broken"):
                pass
        assert len(app.state.places) == 0
    assert app.state.connections == set()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2:aaaa:bbbb:cccc:dddd"),
        ("a unix socket", "a unix socket"),
    ],
)
def test_what_counts_as_one_address(one: str, other: str) -> None:
    places = Places(total=10, per_network=1)
    place = places.take(one)
    with pytest.raises(HTTPException) as refusal:
        places.take(other)
    assert refusal.value.status_code == 429
    places.give_back(place)
    places.take(other)


def test_neighbours_are_not_one_address() -> None:
    places = Places(total=10, per_network=1)
    for host in ("192.0.2.1", "192.0.2.2", "2001:db8:1:2::1", "2001:db8:1:3::1"):
        places.take(host)
    assert len(places) == 4


def test_an_address_joins_so_many_rooms_a_second_and_ten_times_that_at_once() -> None:
    now = 1000.0
    joins = JoinLimiter(per_second=0.5, clock=lambda: now)
    for _ in range(5):
        joins.take("192.0.2.1")
    with pytest.raises(HTTPException) as refusal:
        joins.take("::ffff:192.0.2.1")
    assert refusal.value.status_code == 429
    joins.take("192.0.2.2")
    now += 2
    joins.take("192.0.2.1")
    with pytest.raises(HTTPException):
        joins.take("192.0.2.1")


def test_no_more_addresses_are_remembered_than_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JoinLimiter, "MAX_ADDRESSES", 2)
    joins = JoinLimiter(per_second=0.1, clock=lambda: 1000.0)
    joins.take("192.0.2.1")
    for host in ("192.0.2.2", "192.0.2.3"):
        joins.take(host)
    joins.take("192.0.2.1")
    with pytest.raises(HTTPException):
        joins.take("192.0.2.3")


def test_too_many_joins_of_an_address_are_refused_before_the_handshake() -> None:
    app = create_app(Settings(joins_per_second_per_ip=0.1))
    with TestClient(app, headers=introduce("")[1]) as client:
        with client.websocket_connect("/ws_broadcast"):
            pass
        with (
            pytest.raises(WebSocketDenialResponse) as refusal,
            client.websocket_connect("/ws_broadcast"),
        ):
            pass
    assert refusal.value.status_code == 429
    assert len(app.state.hub) == 0
