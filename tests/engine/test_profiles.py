"""Who somebody is: profiles in presence, and hooks for who comes and goes."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi_realtime import Identity, Realtime
from fastapi_realtime.rooms import Rooms, RoomSettings
from fastapi_realtime.rooms import rooms as rooms_module
from fastapi_realtime.rooms.access import profile_of
from fastapi_realtime.rooms.events import PresenceEvent

from .brokers import MakeRooms, running_process
from .room_app import SubjectAsToken, connect_events, next_event, request, room_app
from .serving import NO_RATE_LIMIT, Serve

PROFILE = {"name": "Zoë", "picture": "https://example.com/zoe.png"}


@pytest.fixture
def app(make_any_rooms: MakeRooms) -> FastAPI:
    """An application with rooms and tokens."""
    claims = SubjectAsToken(zoe=PROFILE, bob={"name": "Bob"})
    return room_app(make_any_rooms(**NO_RATE_LIMIT), authenticator=claims)


def test_presence_carries_name_and_picture(app: FastAPI, serve_both_ways: Serve) -> None:
    url = f"{serve_both_ways(app)}/rooms/profiles"
    with connect_events(url, "ann") as ann:
        next_event(ann, "present")
        with connect_events(url, "zoe") as zoe, connect_events(url, "zoe"):
            joined = [next_event(ann, "joined") for _ in range(2)]
            assert [each["profile"] for each in joined] == [PROFILE, PROFILE]
            members = next_event(zoe, "present")["members"]
            found = {each["sender"]: each.get("profile") for each in members}
            assert found == {"ann": None, "zoe": PROFILE}
            http = url.replace("ws:", "http:")
            _, present = request(http, authorization="ann")
            assert {each["sender"]: each.get("profile") for each in present["members"]} == found
        assert "profile" not in next_event(ann, "left")


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"name": "", "picture": ""},
        {"name": "x" * 65, "picture": f"https://{'x' * 250}"},
        {"name": ["Zoë"], "picture": {"url": "https://example.com"}},
        {"name": "a\u202eb", "picture": "javascript:alert(1)"},
        {"name": " Zoë", "picture": "http://example.com/zoe.png"},
        {"name": 7, "picture": "https://example.com/\n"},
    ],
)
def test_claims_that_are_too_long_or_no_text_are_left_out(claims: dict[str, Any]) -> None:
    assert profile_of(Identity("zoe", 0, claims)) is None
    partly = profile_of(Identity("zoe", 0, claims | {"name": "Zoë"}))
    assert partly is not None
    assert partly.model_dump() == {"name": "Zoë", "picture": None}


@pytest.mark.anyio
async def test_hooks_are_called_for_the_first_connection_and_the_last(
    make_any_rooms: MakeRooms,
) -> None:
    rooms = make_any_rooms()
    noted: asyncio.Queue[PresenceEvent] = asyncio.Queue()
    async with running_process(rooms, noted.put_nowait) as process:
        for kind, connection, sender in (
            ("joined", "c1", "zoe"),
            ("joined", "c2", "zoe"),
            ("joined", "c3", "bob"),
            ("left", "c1", "zoe"),
            ("left", "c1", "zoe"),
            ("left", "c2", "zoe"),
            ("joined", "c4", "zoe"),
            ("left", "c3", "bob"),
            ("left", "c4", "zoe"),
        ):
            await process.broker.announce(
                PresenceEvent(type=kind, room="hooks", sender=sender, connection=connection)
            )
        async with asyncio.timeout(10):
            events = [await noted.get() for _ in range(6)]
    by_sender = {"zoe": [], "bob": []}
    for event in events:
        by_sender[event.sender].append(event.type)
    assert by_sender == {"zoe": ["joined", "left", "joined", "left"], "bob": ["joined", "left"]}
    assert noted.empty()


def test_hooks_run_in_order_and_to_their_end(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    may_end = asyncio.Event()

    async def on_join(sender: str, room: str) -> None:
        await may_end.wait()
        calls.append(f"{sender} joined {room}")

    async def on_leave(sender: str, room: str) -> None:
        await asyncio.sleep(0)
        calls.append(f"{sender} left {room}")

    rooms = Rooms(RoomSettings(), on_join=on_join, on_leave=on_leave)
    app = room_app(rooms)

    @app.get("/end")
    async def end() -> int:
        may_end.set()
        return len(calls)

    url = serve(app)
    with connect_events(f"{url}/rooms/tea?name=zoe"):
        pass
    http = f"{url}/end".replace("ws:", "http:")
    assert request(http)[1] == 0
    while request(http)[1] < 2:
        pass
    assert calls == ["zoe joined tea", "zoe left tea"]
    assert not rooms._calls


@pytest.mark.anyio
@pytest.mark.parametrize("is_late", [False, True])
async def test_a_hook_that_fails_is_logged_and_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    async def fail(sender: str, room: str) -> None:
        if is_late:
            await asyncio.Event().wait()
        raise ValueError("no database")

    rooms = Rooms(RoomSettings(), on_leave=fail)
    if is_late:
        monkeypatch.setattr(rooms_module, "HOOK_SECONDS", 0.01)
    async with rooms.lifespan(Realtime(RoomSettings())):
        for kind in ("joined", "left", "joined"):
            event = PresenceEvent(type=kind, room="tea", sender="zoe", connection="c1")
            await rooms.broker.announce(event)
        while is_late and rooms._calls:
            await asyncio.sleep(0)
    assert not rooms._calls
    (record,) = caplog.records
    assert record.exc_info is not None
    assert (vars(record)["room"], vars(record)["sender"]) == ("tea", "zoe")
