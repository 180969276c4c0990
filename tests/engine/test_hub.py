"""Fan-out in this process, looked at one turn of the event loop at a time."""

import asyncio
import re
from contextlib import ExitStack

import pytest
from fastapi_realtime.rooms import hub as hub_module
from fastapi_realtime.rooms import hub as room_module
from fastapi_realtime.rooms.events import (
    AFTER_ALL,
    EncodedEvent,
    GapEvent,
    MessageEvent,
    PresentEvent,
)
from fastapi_realtime.rooms.hub import Hub, Subscriber

from .hub_client import Client

PER_TURN = room_module.SUBSCRIBERS_PER_TURN


pytestmark = pytest.mark.anyio


def subscribe(stack: ExitStack, hub: Hub, client: Client, room: str = "lobby") -> Subscriber:
    """Add a subscriber that is not started yet."""
    subscriber = hub.subscribe(room, client.connection)
    stack.callback(hub.unsubscribe, room, subscriber)
    return subscriber


def join(stack: ExitStack, hub: Hub, room: str = "lobby") -> tuple[Subscriber, Client]:
    """Add a subscriber."""
    client = Client()
    subscriber = subscribe(stack, hub, client, room)
    subscriber.start(room)
    return subscriber, client


def message(text: str, room: str = "lobby", sender: str = "", offset: int = 0) -> EncodedEvent:
    """Return a message as the broker hands it over."""
    return EncodedEvent(MessageEvent(room=room, sender="zoe", data=text), sender, offset)


async def test_events_of_one_turn_are_one_write_to_each_subscriber() -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        ann, at_ann = join(stack, hub)
        _, at_bob = join(stack, hub)
        hub.deliver(message("one"))
        hub.deliver(message("two", sender=ann.id))
        await asyncio.sleep(0)
        assert at_bob.written == [b"\x81\x10New message: one\x81\x10New message: two"]
        assert at_ann.written == [b"\x81\x10New message: one"]


async def test_a_big_room_is_served_in_turns_and_in_order() -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        clients = [join(stack, hub)[1] for _ in range(3 * PER_TURN)]
        hub.deliver(message("one"))
        for turn in (1, 2, 3):
            await asyncio.sleep(0)
            assert sum(len(client.written) for client in clients) == turn * PER_TURN
            hub.deliver(message(f"after {turn}"))
        for _ in range(3):
            await asyncio.sleep(0)
        texts = [f"New message: {text}" for text in ("after 1", "after 2", "after 3")]
        for client in clients:
            assert client.written[1].decode("latin-1").split("\x81")[1:] == [
                chr(len(text)) + text for text in texts
            ]


async def test_a_subscriber_that_comes_during_a_fan_out_receives_nothing_of_it() -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        for _ in range(PER_TURN):
            join(stack, hub)
        hub.deliver(message("one"))
        await asyncio.sleep(0)
        client = Client("events.v1")
        member = subscribe(stack, hub, client)
        member.start("lobby")
        await asyncio.sleep(0)
        assert client.written == []


async def test_a_subscriber_that_leaves_during_a_fan_out_receives_nothing_more() -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        for _ in range(PER_TURN):
            join(stack, hub)
        with ExitStack() as short:
            others = [join(short, hub)[1] for _ in range(PER_TURN)]
            hub.deliver(message("one"))
            await asyncio.sleep(0)
        there = sum(len(client.written) for client in others)
        await asyncio.sleep(0)
        assert sum(len(client.written) for client in others) == there


async def test_no_frame_follows_a_close_frame() -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        _, closing = join(stack, hub)
        _, staying = join(stack, hub)
        closing.is_open = False
        hub.deliver(message("one"))
        await asyncio.sleep(0)
        assert closing.written == []
        assert staying.written != []


async def publish(hub: Hub, count: int, text: str = "more") -> None:
    """Publish as the broker does: wait while the room is full."""
    for _ in range(count):
        await hub.wait_ready("lobby")
        hub.deliver(message(text))


@pytest.mark.parametrize(
    ("text", "fit"),
    [("more", room_module.MAX_ROOM_EVENTS), ("x" * (room_module.MAX_ROOM_BYTES // 4), 4)],
)
async def test_publishers_wait_while_a_room_has_too_much_pending(text: str, fit: int) -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        _, client = join(stack, hub)
        publishers = [asyncio.create_task(publish(hub, fit, text)) for _ in range(3)]
        await asyncio.sleep(0)
        assert client.written == []
        assert hub.is_full("lobby")
        await asyncio.gather(*publishers)
        await asyncio.sleep(0)
        assert [data.count(b"New") for data in client.written] == [fit, fit, fit]


async def test_subscribers_share_the_bytes_around_their_own_messages() -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        members = [join(stack, hub) for _ in range(4)]
        for member, _ in members:
            hub.deliver(message(f"from {member.id}", sender=member.id))
        await asyncio.sleep(0)
        shared = {id(piece.obj) for _, client in members for piece in client.pieces}
        assert len(shared) == 1
        for member, client in members:
            others = [other.id for other, _ in members if other is not member]
            assert re.findall(rb"from (\w+)", b"".join(client.written)) == [
                each.encode() for each in others
            ]


async def test_bytes_pending_for_all_subscribers_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_module, "SHED_SECONDS", 0)
    hub = Hub(max_backlog_bytes=1000, max_pending_bytes=2500)
    with ExitStack() as stack:
        clients = [join(stack, hub)[1] for _ in range(5)]
        for client, unread in zip(clients, (100, 700, 0, 800, 1000), strict=True):
            client.unread = unread
        hub.deliver(message("one"))
        await asyncio.sleep(0)
        assert [client.closed for client in clients] == [0, 0, 0, 0, 1013]
        await asyncio.wait_for(clients[-1].aborted.wait(), 10)


async def test_bytes_that_were_read_since_do_not_count() -> None:
    hub = Hub(max_backlog_bytes=1000, max_pending_bytes=1500)
    with ExitStack() as stack:
        clients = [join(stack, hub, room)[1] for room in ("tea", "milk")]
        for client, room in zip(clients, ("tea", "milk"), strict=True):
            client.unread = 1000
            hub.deliver(message("one", room=room))
            await asyncio.sleep(0)
            client.unread = 0
        assert [client.closed for client in clients] == [0, 0]


async def test_an_event_that_cannot_be_encoded_is_the_publishers_error_alone() -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        _, client = join(stack, hub)
        with pytest.raises(ValueError, match="surrogates"):
            hub.deliver(message("\ud800"))
        hub.deliver(message("one"))
        await asyncio.sleep(0)
        assert client.written == [b"\x81\x10New message: one"]


async def test_a_new_subscriber_receives_only_later_events_and_only_once_started() -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        hub.deliver(message("nobody hears this"))
        _, early = join(stack, hub)
        hub.deliver(message("one"))
        client = Client()
        member = subscribe(stack, hub, client)
        hub.deliver(message("two"))
        await asyncio.sleep(0)
        assert early.written == [b"\x81\x10New message: one\x81\x10New message: two"]
        assert client.written == []
        member.start("lobby")
        assert client.written == [b"\x81\x10New message: two"]


async def test_messages_that_were_replayed_are_dropped_whether_held_or_live() -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        client = Client()
        subscriber = subscribe(stack, hub, client)
        hub.deliver(message("held 1", offset=1))
        await asyncio.sleep(0)
        hub.deliver(message("live 2", offset=2))
        subscriber.start("lobby", replayed=2)
        await asyncio.sleep(0)
        assert client.written == []
        hub.deliver(message("live 3", offset=3))
        await asyncio.sleep(0)
        hub.deliver(message("another broker's", offset=1))
        await asyncio.sleep(0)
        assert [data[2:] for data in client.written] == [
            b"New message: live 3",
            b"New message: another broker's",
        ]


async def test_after_a_gap_offsets_may_begin_again() -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        client = Client()
        subscriber = subscribe(stack, hub, client)
        hub.deliver(message("replayed", offset=7))
        hub.deliver(EncodedEvent(GapEvent(room="lobby", since="x-7"), offset=AFTER_ALL))
        hub.deliver(message("new", offset=1))
        await asyncio.sleep(0)
        subscriber.start("lobby", replayed=7)
        assert client.written == [b"\x81\x10New message: new"]


async def test_a_new_subscriber_is_told_who_is_present_instead_of_what_it_missed_of_that() -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        client = Client("events.v1")
        subscriber = subscribe(stack, hub, client)
        hub.deliver(EncodedEvent(PresentEvent(room="lobby", count=7, members=[])))
        hub.deliver(message("one"))
        await asyncio.sleep(0)
        subscriber.start("lobby", present=PresentEvent(room="lobby", count=8, members=[]))
        first, second = b"".join(client.written)[1:].split(b"\x81")
        assert b'"count":8' in first
        assert b'"data":"one"' in second


async def test_a_subscriber_whose_replay_takes_too_long_is_cut_off() -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        client = Client()
        subscriber = subscribe(stack, hub, client)
        hub.deliver(message("x" * 1000))
        await asyncio.sleep(0)
        assert client.closed == 1013
        subscriber.start("lobby")
        hub.hold("lobby", subscriber, 10)
        assert (client.written, hub._unread) == ([], 0)


async def test_empty_rooms_are_forgotten() -> None:
    hub = Hub(max_backlog_bytes=1000)
    with ExitStack() as stack:
        clients = [join(stack, hub, str(number))[1] for number in range(2000)]
        for number in range(2000):
            hub.deliver(message("hello", room=str(number)))
        for _ in range(2000 // PER_TURN):
            await asyncio.sleep(0)
        assert all(client.written for client in clients)
    assert not hub._rooms


@pytest.mark.parametrize("kind", ["direct", "portable"])
async def test_missed_messages_count_as_pending_until_they_are_sent(kind: str) -> None:
    hub = Hub(max_backlog_bytes=1000, max_pending_bytes=2500)
    with ExitStack() as stack:
        clients = [Client() for _ in range(3)]
        if kind == "portable":
            for client in clients:
                client.transport = None
        members = [(subscribe(stack, hub, client), client) for client in clients]
        for subscriber, _ in members[:2]:
            hub.hold("lobby", subscriber, 1200)
        assert not any(client.closed for _, client in members)
        members[0][0].start("lobby")
        hub.hold("lobby", members[2][0], 1200)
        assert not any(client.closed for _, client in members)
        hub.hold("lobby", members[2][0], 200)
        assert [client.closed for _, client in members] == [0, 0, 1013]
