"""What a member learns of what it has sent."""

import json
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from fastapi_realtime.rooms import Rooms, RoomsDep
from websockets.sync.client import ClientConnection

from .room_app import connect_events, next_event, request, room_app, token_app
from .serving import Serve, connect


def exchange(client: ClientConnection, **event: object) -> dict[str, object]:
    """Send an event, and return the answer to it."""
    client.send(json.dumps(event))
    answer: dict[str, object] = json.loads(client.recv(timeout=10))
    return answer


@contextmanager
def joined(url: str, token: str = "") -> Generator[ClientConnection]:
    """Connect a client, and read what it is told of its joining."""
    with connect_events(url, token) as client:
        next_event(client, "present")
        yield client


def test_a_message_with_a_ref_is_accepted_with_the_id_that_others_see(
    serve_both_ways: Serve,
) -> None:
    url = f"{serve_both_ways(room_app())}/rooms/tea"
    with joined(url) as ann, joined(url) as bob:
        next_event(ann, "joined")
        accepted = exchange(ann, type="message", data=1, ref="r1")
        assert accepted == {
            "type": "accepted",
            "ref": "r1",
            "id": next_event(bob, "message")["id"],
        }


def test_a_message_that_is_sent_again_is_published_once_also_on_a_new_connection(
    serve: Serve,
) -> None:
    url = f"{serve(room_app())}/rooms/tea"
    with joined(url) as watch:
        with joined(f"{url}?name=ann") as ann:
            first = exchange(ann, type="message", data=1, ref="r1")
            assert exchange(ann, type="message", data=1, ref="r1") == first
        with joined(f"{url}?name=another") as ann:
            assert exchange(ann, type="message", data=1, ref="r1") == first
            assert exchange(ann, type="message", data=2, ref="r2") != first
        assert [next_event(watch, "message")["data"] for _ in range(2)] == [1, 2]


def test_with_tokens_a_ref_counts_for_its_subject_alone(serve: Serve) -> None:
    url = f"{serve(token_app())}/rooms/lobby"
    with joined(url, "ann") as ann:
        first = exchange(ann, type="message", data=1, ref="r1")
    with joined(url, "bob") as bob:
        assert exchange(bob, type="message", data=1, ref="r1")["id"] != first["id"]
    with joined(url, "ann") as ann:
        assert exchange(ann, type="message", data=1, ref="r1") == first


def test_a_ref_counts_for_a_socket_and_a_request_of_one_sender(serve: Serve) -> None:
    for app, token in ((room_app(), ""), (token_app(), "ann")):
        url = f"{serve(app)}/rooms/lobby"
        with joined(url, token) as ann:
            accepted = exchange(ann, type="message", data=1, ref="r1")
        headers = {"authorization": token, "idempotency_key": "r1"}
        answer = request(url.replace("ws:", "http:"), b"1", **headers)
        assert answer == (202, {"id": accepted["id"]})


def test_a_ping_is_answered_with_its_ref(serve: Serve) -> None:
    with joined(f"{serve(room_app())}/rooms/tea") as ann:
        assert exchange(ann, type="ping") == {"type": "pong"}
        assert exchange(ann, type="ping", ref="p1") == {"type": "pong", "ref": "p1"}


def test_errors_repeat_the_ref(serve: Serve) -> None:
    url = serve(room_app(messages_per_second=0.001, message_burst=1))
    with joined(f"{url}/rooms/tea") as ann:
        shape = exchange(ann, type="message", ref="r1")
        assert (shape["code"], shape["path"], shape["ref"]) == ("invalid_shape", "data", "r1")
        rate = exchange(ann, type="message", data=1, ref="r2")
        assert (rate["code"], rate["ref"]) == ("rate_limited", "r2")


def test_text_members_are_not_told_what_was_accepted(serve: Serve) -> None:
    url = f"{serve(room_app())}/rooms/tea"
    with connect(url) as ann, connect(url) as bob:
        ann.send("Hello")
        assert bob.recv(timeout=10) == "New message: Hello"
        bob.send("Hi")
        assert ann.recv(timeout=10) == "New message: Hi"


def test_a_route_publishes_with_the_same_ids_as_members(serve: Serve) -> None:
    app = room_app()

    @app.post("/orders")
    async def order(rooms: RoomsDep) -> list[str]:
        return [await rooms.publish("tea", 1, "shop", ref) for ref in ("r1", "r1", "", "")]

    url = serve(app)
    with joined(f"{url}/rooms/tea") as ann:
        _, ids = request(f"{url.replace('ws:', 'http:')}/orders", b"")
        events = [next_event(ann, "message") for _ in range(3)]
        assert [event["id"] for event in events] == [ids[0], *ids[2:]]
        assert ids[0] == ids[1]
        assert {event["sender"] for event in events} == {"shop"}


@pytest.mark.anyio
@pytest.mark.parametrize("room", ["", "r" * 261, "a\n", "\ufffd", "user:zoe", "USER:zoe"])
async def test_publishing_to_a_room_that_cannot_be_is_an_error(room: str) -> None:
    rooms: Rooms = room_app().state.realtime.service(Rooms)
    with pytest.raises(ValueError, match="there is no room"):
        await rooms.publish(room, "Hello")


def test_a_route_that_publishes_to_a_room_that_cannot_be_answers_422(serve: Serve) -> None:
    app = room_app()

    @app.post("/notify/{subject}")
    async def notify(subject: str, rooms: RoomsDep) -> str:
        return await rooms.publish(f"user:{subject}", "Hello")

    status, answer = request(f"{serve(app).replace('ws:', 'http:')}/notify/zoe", b"")
    assert status == 422
    assert answer["detail"].startswith("there is no room 'user:zoe'")
