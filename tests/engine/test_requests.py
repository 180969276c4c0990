"""HTTP requests to rooms: checked and limited as connections are."""

import socket

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_realtime.rooms import (
    Rooms,
    RoomSettings,
    parameters,
)

from .room_app import connect_events, next_event, request, room_app, token_app
from .serving import Serve, dial, read_to_end

PATH = "/rooms/tea"


@pytest.fixture
def app() -> FastAPI:
    """An application with rooms, a small limit of messages, and one of their size."""
    return room_app(max_message_bytes=100, messages_per_second=0.001, message_burst=3)


def test_a_request_publishes_to_a_room(serve: Serve, app: FastAPI) -> None:
    url = f"{serve(app)}{PATH}"
    with connect_events(url) as ann:
        next_event(ann, "present")
        status, answer = request(f"{url.replace('ws:', 'http:')}?name=shop", b'{"price": 3}')
        assert status == 202
        assert next_event(ann, "message") == {
            "type": "message",
            "id": answer["id"],
            "room": "tea",
            "sender": "shop",
            "data": {"price": 3},
        }


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"\xff", b'"\\ud800"', b"[" * 99])
def test_a_body_that_is_not_json_gets_a_422(client: TestClient, body: bytes) -> None:
    response = client.post(PATH, content=body)
    assert response.status_code == 422
    assert response.json()["detail"].startswith("the body is not JSON, or too deep")


def test_a_body_that_is_too_big_gets_a_413(client: TestClient) -> None:
    assert client.post(PATH, content=b" " * 99 + b"1").status_code == 202
    assert client.post(PATH, content=b" " * 100 + b"1").status_code == 413


def test_the_rest_of_a_body_that_is_too_big_is_not_read(serve: Serve, app: FastAPI) -> None:
    url = serve(app)
    for framing in ("Content-Length: 1000000", "Transfer-Encoding: chunked"):
        with dial(url) as raw:
            raw.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
            raw.sendall(b"200\r\n" + b" " * 512 + b"\r\n")
            answer = read_to_end(raw)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer.lower()


def test_a_compressed_body_gets_a_415(client: TestClient) -> None:
    headers = {"content-encoding": "gzip"}
    assert client.post(PATH, content=b"1", headers=headers).status_code == 415


@pytest.mark.parametrize("keys", [["a", "b"], ["k" * 256]])
def test_several_keys_or_a_long_one_get_a_422(client: TestClient, keys: list[str]) -> None:
    headers = [("idempotency-key", key) for key in keys]
    assert client.post(PATH, json=1, headers=headers).status_code == 422


def test_a_body_that_takes_too_long_gets_a_408(
    serve: Serve, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameters, "BODY_TIMEOUT", 0.05)
    with dial(serve(app)) as raw:
        raw.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_no_traceback(
    serve: Serve, app: FastAPI
) -> None:
    url = serve(app)
    with dial(url) as raw:
        raw.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1".encode())
        raw.shutdown(socket.SHUT_WR)
        read_to_end(raw)
    assert request(f"{url.replace('ws:', 'http:')}{PATH}", b"1")[0] == 202


def test_a_page_of_another_origin_gets_a_403(client: TestClient) -> None:
    assert client.post(PATH, json=1, headers={"origin": "https://evil.example"}).status_code == 403
    assert client.get(PATH, headers={"origin": "https://evil.example"}).status_code == 403
    assert client.post(PATH, json=1, headers={"origin": "http://testserver"}).status_code == 202


def test_where_an_origin_is_required_a_page_may_get_something_of_its_own_without() -> None:
    with TestClient(room_app(require_origin=True)) as client:
        assert client.get(PATH).status_code == 200
        assert client.post(PATH, json=1).status_code == 403
        assert client.post(PATH, json=1, headers={"origin": "http://testserver"}).is_success


def test_the_latest_messages_are_bounded_and_count_as_requests() -> None:
    with TestClient(room_app(messages_per_second=0.001, message_burst=140)) as client:
        for number in range(7):
            client.post(PATH, json=str(number) * 60_000)
        for last, expected in ((2, "56"), (99, "3456"), (0, "")):
            found = client.get(f"{PATH}?last={last}").json().get("messages", [])
            assert [message["data"][0] for message in found] == [*expected]
        answers = [client.get(f"{PATH}?last=4").status_code for _ in range(2)]
        assert answers == [200, 429]


def test_only_who_may_join_reads_the_latest_messages() -> None:
    with TestClient(token_app(zoe={"join": ["tea"], "publish": ["tea"]})) as client:
        zoe, mallory = ({"authorization": name} for name in ("zoe", "mallory"))
        client.post(PATH, json="secret", headers=zoe)
        assert client.get(f"{PATH}?last=9", headers=mallory).status_code == 403
        assert client.get(f"{PATH}?last=-1", headers=zoe).status_code == 422
        found = client.get(f"{PATH}?last=9", headers=zoe).json()["messages"]
        assert [(each["sender"], each["data"]) for each in found] == [("zoe", "secret")]


def test_too_many_requests_of_an_address_get_a_429(client: TestClient) -> None:
    assert [client.post(PATH, json=1).status_code for _ in range(4)] == [202, 202, 202, 429]


def test_long_bodies_count_as_several_requests() -> None:
    with TestClient(room_app(messages_per_second=0.001, message_burst=10)) as client:
        body = b" " * 40_000 + b"1"
        assert [client.post(PATH, content=body).status_code for _ in range(3)] == [202, 202, 429]


def test_with_tokens_requests_are_counted_by_subject() -> None:
    settings = RoomSettings(messages_per_second=0.001, message_burst=1)
    app = token_app(settings=settings, zoe={"publish": ["tea"]}, bob={"publish": ["tea"]})
    rooms: Rooms = app.state.realtime.service(Rooms)
    rooms.limit_requests("zoe", "testclient")
    with TestClient(app) as client:
        answers = [
            client.post(PATH, json=1, headers={"authorization": subject}).status_code
            for subject in ("zoe", "bob", "")
        ]
    assert answers == [429, 202, 401]


def test_while_the_server_stops_requests_get_a_503(app: FastAPI) -> None:
    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(app.state.realtime.drain.run)
        assert client.post(PATH, json=1).status_code == 503
