"""Who may join a room, and publish to it."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from fastapi_realtime.rooms import Rooms, RoomsDep
from starlette.testclient import WebSocketDenialResponse

from .room_app import (
    EventsAdmitted,
    PolicyFromClaims,
    connect_events,
    next_event,
    request,
    room_app,
    send,
    token_app,
)
from .serving import Serve, connect, receive_all


class EverythingAllowed:
    """A policy that refuses nothing."""

    async def may_join(self, identity: Any, room: str) -> bool:
        return True

    async def may_publish(self, identity: Any, room: str) -> bool:
        return True


def status(client: TestClient, room: str, subject: str = "zoe") -> int:
    """Return the status of a handshake."""
    headers = {"authorization": subject}
    try:
        with client.websocket_connect(f"/rooms/{room}", headers=headers):
            return 101
    except WebSocketDenialResponse as refusal:
        return refusal.status_code


def test_a_room_that_policy_does_not_open_is_refused_before_the_handshake() -> None:
    with TestClient(token_app(zoe={"join": ["tea"]})) as client:
        assert [status(client, room) for room in ("tea", "Tea", "lobby")] == [101, 403, 403]
        headers = {"authorization": "zoe"}
        assert client.get("/rooms/tea", headers=headers).status_code == 200
        assert client.get("/rooms/lobby", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "room",
    [
        "user:bob",
        "user%3Abob",
        "%75ser:bob",
        "user:",
        "user:zoe%20",
        "User:zoe",
        "USER:bob",
        "%20user:bob",
        "user%EF%BC%9Abob",
        "%EF%BD%95ser:bob",
        "user:zo%C3%AB",
    ],
)
def test_nobody_else_joins_the_room_of_a_subject_whatever_policy_says(room: str) -> None:
    with TestClient(token_app(policy=EverythingAllowed())) as client:
        assert status(client, "user:zoe") == 101
        assert status(client, room) == 403
        response = client.get(f"/rooms/{room}", headers={"authorization": "zoe"})
        assert response.status_code == 403


def test_what_only_looks_like_the_room_of_a_subject_cannot_be_published_to() -> None:
    with TestClient(token_app(policy=EverythingAllowed())) as client:
        for room in ("User:zoe", "%20user:zoe", "user%EF%BC%9Azoe"):
            response = client.post(f"/rooms/{room}", json=1, headers={"authorization": "zoe"})
            assert response.status_code == 403


def test_without_tokens_nobody_has_a_room_of_their_own() -> None:
    with TestClient(room_app()) as client:
        assert status(client, "user:zoe") == 403
        assert client.post("/rooms/user:zoe", json=1).status_code == 403
        assert status(client, "user") == 101


def test_a_message_to_a_subject_reaches_all_of_its_connections_and_nobody_else(
    serve: Serve,
) -> None:
    app = token_app(policy=EverythingAllowed())
    url = f"{serve(app)}/rooms"
    mine = f"{url}/user:zoe"
    with (
        connect_events(mine, "zoe") as first,
        connect_events(mine, "zoe") as second,
        connect_events(f"{url}/lobby", "bob") as bob,
    ):
        for client in (first, second, bob):
            next_event(client, "present")
        assert request(mine.replace("ws:", "http:"), b'"Hello"', authorization="bob")[0] == 202
        for client in (first, second):
            assert next_event(client, "message")["data"] == "Hello"
        bob.send(json.dumps({"type": "ping"}))
        assert json.loads(bob.recv(timeout=10)) == {"type": "pong"}


def test_a_text_that_policy_forbids_gets_an_error_too(serve: Serve) -> None:
    url = f"{serve(token_app(reader={'join': ['tea'], 'publish': []}))}/rooms/tea"
    with connect(url, additional_headers={"authorization": "reader"}) as ann:
        ann.send("no")
        assert json.loads(ann.recv(timeout=10))["error"]["code"] == "forbidden"


def test_a_message_that_policy_forbids_gets_an_error_and_is_not_published(serve: Serve) -> None:
    reader = {"join": ["tea"], "publish": []}
    writer = {"join": ["tea"], "publish": ["tea"]}
    url = f"{serve(token_app(reader=reader, writer=writer))}/rooms/tea"
    with connect_events(url, "reader") as ann, connect_events(url, "writer") as bob:
        send(ann, "no", ref="r1")
        error = next_event(ann, "error")
        assert (error["code"], error["ref"]) == ("forbidden", "r1")
        send(bob, "yes")
        assert next_event(ann, "message")["data"] == "yes"


def test_an_endpoint_answers_messages_itself_whatever_policy_says(serve: Serve) -> None:
    bidder = {"join": ["tea"], "publish": []}
    app = token_app(ann=bidder, bob=bidder)

    @app.websocket("/auctions/{room}")
    async def auction(connection: EventsAdmitted, rooms: RoomsDep, room: str) -> None:
        async with rooms.join(connection, room, connection.subject) as member:
            async for message in member:
                match message.data:
                    case int(bid) if bid > 5:
                        await member.publish({"bid": bid}, message.ref, ask_policy=False)
                    case "sold":
                        await member.accept(message, await rooms.publish(room, "sold"))
                    case "hello":
                        await member.accept(message)
                    case _:
                        await member.refuse(message, "bid_too_low", "Bid more than 5.")

    url = f"{serve(app)}/auctions/tea"
    with connect_events(url, "ann") as ann, connect_events(url, "bob") as bob:
        send(ann, 5, ref="r1")
        error = next_event(ann, "error")
        assert error == {
            "type": "error",
            "code": "bid_too_low",
            "detail": "Bid more than 5.",
            "ref": "r1",
        }
        for data, published in ((6, {"bid": 6}), ("sold", "sold")):
            send(ann, data, ref=f"r{data}")
            message, accepted = next_event(bob, "message"), next_event(ann, "accepted")
            assert (message["data"], accepted["ref"]) == (published, f"r{data}")
            assert message["id"] == accepted["id"]
        send(ann, "hello", ref="r3")
        assert next_event(ann, "accepted") == {"type": "accepted", "ref": "r3"}
        with connect(url, additional_headers={"authorization": "bob"}) as text:
            text.send("hello")
            text.send("5")
            assert json.loads(text.recv(timeout=10))["error"]["code"] == "bid_too_low"


def test_a_connection_that_is_closed_while_policy_is_asked_publishes_nothing(
    serve: Serve,
) -> None:
    class SlowPolicy(PolicyFromClaims):
        async def may_publish(self, identity: Any, room: str) -> bool:
            for connection in app.state.realtime.connections:
                if connection.subject == identity.subject == "zoe":
                    connection.close_soon(4401, "token expired")
            return True

    app = token_app(policy=SlowPolicy())
    url = f"{serve(app)}/rooms/lobby"
    with connect_events(url, "bob") as bob:
        with connect_events(url, "zoe") as zoe:
            send(zoe, "too late")
            assert receive_all(zoe)[1] == 4401
        next_event(bob, "left")
        send(bob, "the first message")
        request(url.replace("ws:", "http:"), b'"the second"', authorization="bob")
        assert next_event(bob, "message")["id"].endswith("-2")


def test_a_request_that_policy_forbids_gets_a_403() -> None:
    with TestClient(token_app(zoe={"publish": ["tea"]})) as client:
        for room, expected in (("tea", 202), ("lobby", 403), ("user:zoe", 403)):
            response = client.post(f"/rooms/{room}", json=1, headers={"authorization": "zoe"})
            assert response.status_code == expected


def test_a_connection_goes_on_with_a_new_token_of_its_subject(serve: Serve) -> None:
    app = token_app()
    url = f"{serve(app)}/rooms/lobby"
    with connect_events(url, "zoe") as zoe:
        next_event(zoe, "present")
        zoe.send(json.dumps({"type": "token", "token": "zoe/2", "ref": "t1"}))
        assert json.loads(zoe.recv(timeout=10)) == {"type": "accepted", "ref": "t1"}
        zoe.send(json.dumps({"type": "token", "token": "zoe/3"}))
        zoe.send(json.dumps({"type": "ping"}))
        assert json.loads(zoe.recv(timeout=10)) == {"type": "pong"}
        (connection,) = app.state.realtime.connections
        assert connection.identity.claims["token"] == "zoe/3"


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("", "unauthorized"),
        ("zoe/revoked", "unauthorized"),
        ("unknown", "unavailable"),
        ("bob", "forbidden"),
        ("zoe/outside", "forbidden"),
    ],
)
def test_a_new_token_that_is_not_as_good_changes_nothing(
    serve: Serve, token: str, code: str
) -> None:
    class PolicyForTokens(PolicyFromClaims):
        async def may_join(self, identity: Any, room: str) -> bool:
            return identity.claims["token"] != "zoe/outside"

    app = token_app(policy=PolicyForTokens())
    app.state.realtime.authenticator.revoked.add("zoe/revoked")
    with connect_events(f"{serve(app)}/rooms/lobby", "zoe") as zoe:
        next_event(zoe, "present")
        zoe.send(json.dumps({"type": "token", "token": token, "ref": "t1"}))
        error = json.loads(zoe.recv(timeout=10))
        assert (error["code"], error["ref"]) == (code, "t1")
        (connection,) = app.state.realtime.connections
        assert connection.identity.claims["token"] == "zoe"


def test_without_tokens_a_new_one_is_refused(serve: Serve) -> None:
    with connect_events(f"{serve(room_app())}/rooms/tea") as ann:
        ann.send(json.dumps({"type": "token", "token": "zoe"}))
        assert next_event(ann, "error")["code"] == "forbidden"


@pytest.mark.anyio
async def test_the_servers_own_code_may_publish_to_a_subject() -> None:
    rooms: Rooms = token_app().state.realtime.service(Rooms)
    assert await rooms.publish("user:zoe", "Hello")
    for room in ("User:zoe", " user:zoe"):
        with pytest.raises(ValueError, match="there is no room"):
            await rooms.publish(room, "Hello")
