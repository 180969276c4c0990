"""Who is in a room, in all processes that use the same Redis."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, closing
from typing import Any, Literal

import pytest
from fastapi_realtime.rooms import BrokerUnavailable, memory
from fastapi_realtime.rooms.access import Profile
from fastapi_realtime.rooms.events import PresenceEvent
from fastapi_realtime.rooms.redis import RedisBroker, reader, rosters
from redis import Redis

from ..brokers import Process, running_process
from ..hub_client import Listener
from ..redis_server import KEYS, RedisServer, rooms_at

pytestmark = pytest.mark.anyio

HERE = KEYS.room("lobby")
DEAD = "dead0000"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing take long."""
    monkeypatch.setattr(rosters, "PROCESS_SECONDS", 1)
    monkeypatch.setattr(rosters, "LOST_SECONDS", 1.0)
    monkeypatch.setattr(rosters, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(memory, "COUNT_SECONDS", 0.1)
    monkeypatch.setattr(rosters, "COUNT_SECONDS", 0.1)


@pytest.fixture
def server(forgetful: RedisServer) -> RedisServer:
    """A Redis that keeps nothing when it stops."""
    return forgetful


class Place:
    """A process in whose lobby connections come and go, and a listener there."""

    def __init__(self, process: Process, listener: Listener) -> None:
        self.process = process
        self.listener = listener

    async def join(self, *connections: str, sender: str = "zoe") -> None:
        """Let connections join."""
        await self._announce("joined", connections, sender)

    async def leave(self, *connections: str, sender: str = "zoe") -> None:
        """Let connections leave."""
        await self._announce("left", connections, sender)

    async def told(self, count: int) -> set[tuple[str, str]]:
        """Return what so many events tell: type and connection."""
        events = [await self.listener.next() for _ in range(count)]
        return {(event["type"], event["connection"]) for event in events}

    async def present(self) -> dict[str, int]:
        """Return who is here, and how many connections each has."""
        answer = await self.process.broker.present("lobby")
        assert answer.count == len(answer.members)
        return {member.sender: len(member.connections) for member in answer.members}

    async def count(self) -> int:
        """Return how many are here, if they are not named."""
        answer = await self.process.broker.present("lobby")
        assert answer.members == []
        return answer.count

    async def _announce(
        self, kind: Literal["joined", "left"], connections: tuple[str, ...], sender: str
    ) -> None:
        for connection in connections:
            event = PresenceEvent(type=kind, room="lobby", sender=sender, connection=connection)
            await self.process.broker.announce(event)


Open = Callable[..., Awaitable[Place]]


@pytest.fixture
async def open_place(server: RedisServer) -> AsyncGenerator[Open]:
    """Start a broker, as another process would, with a member of each name."""
    async with AsyncExitStack() as stack:

        async def open_place(*members: str, note: Any = None, **settings: Any) -> Place:
            process = running_process(rooms_at(server.url, **settings), note)
            place = Place(await stack.enter_async_context(process), Listener())
            place.process.hub.subscribe("lobby", place.listener.connection).start("lobby")
            for member in members:
                await place.process.broker.enter("lobby")
                await place.join(f"{member}-1", sender=member)
                await place.process.broker.present("lobby")
            return place

        yield open_place


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait until something is true that nothing tells of."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_members_are_told_who_joins_and_leaves_elsewhere(open_place: Open) -> None:
    ann, bob = await open_place("ann"), await open_place("bob")
    assert await ann.told(2) == {("joined", "ann-1"), ("joined", "bob-1")}
    assert await bob.told(1) == {("joined", "bob-1")}  # and no event for those here before
    assert await ann.present() == await bob.present() == {"ann": 1, "bob": 1}
    await ann.join("ann-2", sender="ann")
    assert await bob.told(1) == {("joined", "ann-2")}
    await ann.leave("ann-1", "ann-2", sender="ann")
    assert await bob.told(2) == {("left", "ann-1"), ("left", "ann-2")}
    assert await bob.present() == {"bob": 1}
    assert bob.listener.waiting() == 0


async def test_a_notice_follows_what_it_tells_of(server: RedisServer, open_place: Open) -> None:
    commands: list[str] = []
    with closing(Redis.from_url(server.url)) as client, client.monitor() as monitor:
        await open_place("ann")
        while not commands or commands[-1] != "PUBLISH":
            command = await asyncio.to_thread(monitor.next_command)
            commands.append(command["command"].partition(" ")[0])
    assert commands[-3:] == ["HSET", "EXPIRE", "PUBLISH"]


async def test_who_is_elsewhere_is_known_where_nobody_is(open_place: Open) -> None:
    await open_place("ann", "bob")
    nobody = await open_place()
    await until(lambda: is_named(nobody, ann=1, bob=1))
    assert (await nobody.process.broker.present("another")).count == 0


async def is_named(place: Place, **members: int) -> bool:
    """Return whether these are the members."""
    return await place.present() == members


async def test_large_rooms_are_counted_and_named_when_they_are_small_again(
    open_place: Open,
) -> None:
    ann, bob = [await open_place(name, presence_limit=3) for name in ("ann", "bob")]
    assert len(await ann.told(2)) == 2
    await bob.join("zoe-1", "zoe-2", "zoe-3")
    for place in (ann, bob):
        while (event := await place.listener.next())["type"] != "present":
            pass
        assert event == {"type": "present", "room": "lobby", "count": 3, "members": []}
        assert await place.count() == 3
    nobody = await open_place(presence_limit=3)
    assert await nobody.count() == 3
    await bob.leave("zoe-1", "zoe-2")
    for place in (ann, bob):
        while not (event := await place.listener.next())["members"]:
            pass
        assert {each["sender"] for each in event["members"]} == {"ann", "bob", "zoe"}
    await bob.leave("zoe-3")
    assert await ann.told(1) == await bob.told(1) == {("left", "zoe-3")}


async def test_members_of_a_process_that_dies_leave(server: RedisServer, open_place: Open) -> None:
    ann = await open_place("ann")
    await open_place("bob")
    assert len(await ann.told(2)) == 2
    await asyncio.to_thread(add_dead_process, server)
    assert await ann.told(1) == {("joined", "eve-1")}
    assert await ann.told(1) == {("left", "eve-1")}
    assert await ann.present() == {"ann": 1, "bob": 1}
    assert server.call("HLEN", HERE.people) == 2


def add_dead_process(
    server: RedisServer, *counted: str, members: str = '{"senders": {"eve-1": "eve"}}'
) -> None:
    """Leave what a process leaves that was killed; perhaps with senders that it has counted."""
    for sender in counted:
        before = server.call("HGET", HERE.senders, sender) or b""
        server.call("HSET", HERE.senders, sender, before + f" {DEAD}".encode())
        server.call("SADD", KEYS.rooms(DEAD), "lobby")
    if counted:
        seconds, _ = server.call("TIME")
        server.call("ZADD", KEYS.processes, seconds - 100, DEAD)
    server.call("HSET", HERE.people, DEAD, members)
    server.call("PUBLISH", KEYS.moves, f"{DEAD} lobby")


async def test_dead_members_are_not_shown_where_nobody_is(
    server: RedisServer, open_place: Open
) -> None:
    await asyncio.to_thread(add_dead_process, server)
    nobody = await open_place()
    assert await nobody.present() == {"eve": 1}  # it may only be late
    await until(lambda: is_named(nobody))
    await until(lambda: asyncio.to_thread(is_forgotten, server))


def is_forgotten(server: RedisServer) -> bool:
    """Return whether Redis has no members of the room."""
    return not server.call("EXISTS", HERE.people)


async def test_a_process_that_stops_takes_its_members_with_it(
    server: RedisServer, open_place: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rosters, "PROCESS_SECONDS", 60)
    ann = await open_place("ann")
    async with running_process(rooms_at(server.url)) as process:
        await Place(process, Listener()).join("bob-1", sender="bob")
        await until(lambda: is_named(ann, ann=1, bob=1))
    assert await ann.told(3) == {("joined", "ann-1"), ("joined", "bob-1"), ("left", "bob-1")}


async def test_nobody_is_told_of_leaves_when_redis_has_lost_all(
    server: RedisServer, open_place: Open
) -> None:
    places = [await open_place(name) for name in ("ann", "bob", "cid")]
    for count, place in zip((3, 2, 1), places, strict=True):
        assert len(await place.told(count)) == count
    server.call("FLUSHALL")
    await until(lambda: asyncio.to_thread(lambda: server.call("HLEN", HERE.people) == 3))
    await asyncio.sleep(2 * rosters.LOST_SECONDS)  # there is no event for what does not happen
    await places[0].join("eve-1", sender="eve")
    for place in places:
        assert (await place.listener.next())["type"] == "gap"
        assert await place.told(1) == {("joined", "eve-1")}


@pytest.mark.parametrize("stop", [False, True])
async def test_members_are_still_there_when_redis_has_forgotten_them(
    server: RedisServer, open_place: Open, stop: bool
) -> None:
    ann, bob = await open_place("ann"), await open_place("bob")
    assert len(await ann.told(2)) + len(await bob.told(1)) == 3
    if stop:
        await asyncio.to_thread(server.stop)
        await bob.join("bob-2", sender="bob")
        await asyncio.to_thread(server.start)
    else:
        server.call("FLUSHALL")
        await bob.join("bob-2", sender="bob")
    await until(lambda: is_named(ann, ann=1, bob=2))
    await until(lambda: is_named(bob, ann=1, bob=2))
    nobody = await open_place()
    await until(lambda: is_named(nobody, ann=1, bob=2))


async def test_a_roster_that_another_program_has_changed_is_stored_again(
    server: RedisServer, open_place: Open
) -> None:
    place = await open_place("ann", "bob")
    nobody = await open_place()
    await until(lambda: is_named(nobody, ann=1, bob=1))
    ((name, _),) = server.call("HGETALL", HERE.people).items()
    for text in ('{"senders": {"ann-1": "eve"}}', "[]", "rubbish", b"\xff"):
        server.call("HSET", HERE.people, name, text)
        server.call("PUBLISH", KEYS.moves, f"{DEAD} lobby")
        await until(lambda: is_named(nobody, ann=1, bob=1))
    assert await place.present() == {"ann": 1, "bob": 1}


async def test_fields_of_a_roster_that_are_no_process_are_deleted_and_said_once(
    server: RedisServer, open_place: Open, caplog: pytest.LogCaptureFixture
) -> None:
    ann = await open_place("ann")
    assert await ann.told(1) == {("joined", "ann-1")}
    for name, text in (
        (b"\xff", '{"senders": {"eve-1": "eve"}}'),
        ("somebody", '{"count": 1}'),
        (DEAD, '{"senders": {"eve-1": 1}}'),
        ("dead0001", '{"count": -1}'),
        ("dead0002", "true"),
        ("dead0003", '{"senders": {"eve-1": "eve"}, "profiles": []}'),
        ("dead0004", r'{"senders": {"eve-1": "\ud800"}}'),
        ("dead0005", "[" * 100_000),
    ):
        server.call("HSET", HERE.people, name, text)
    server.call("PUBLISH", KEYS.moves, f"{DEAD} lobby")
    await until(lambda: asyncio.to_thread(lambda: server.call("HLEN", HERE.people) == 1))
    assert await ann.present() == {"ann": 1}
    assert ann.listener.waiting() == 0
    assert [vars(each)["room"] for each in caplog.records] == ["lobby"]


@pytest.mark.parametrize("limit", [0, 100])
async def test_keys_that_redis_evicts_are_made_again(
    server: RedisServer, open_place: Open, limit: int
) -> None:
    await open_place("ann", presence_limit=limit)
    bob = await open_place("bob", "zoe", presence_limit=limit)
    nobody = await open_place(presence_limit=limit)
    for key in (HERE.people, HERE.head):
        server.call("DEL", key)
        await until(lambda: are_counted(nobody, 3))
        server.call("DEL", key)
        await bob.join("eve-1", sender="eve")
        await until(lambda: are_counted(nobody, 4))
        await bob.leave("eve-1", sender="eve")
        await until(lambda: are_counted(nobody, 3))


async def are_counted(place: Place, count: int) -> bool:
    """Return whether so many members are known to a process."""
    return (await place.process.broker.present("lobby")).count == count


async def test_a_roster_of_a_wrong_type_is_replaced_and_holds_up_no_other_room(
    server: RedisServer, open_place: Open, caplog: pytest.LogCaptureFixture
) -> None:
    ann, nobody = await open_place("ann"), await open_place()
    await until(lambda: is_named(ann, ann=1))
    server.call("SET", KEYS.room("tea").people, "not ours")
    with pytest.raises(BrokerUnavailable):
        await nobody.process.broker.present("tea")
    event = PresenceEvent(type="joined", room="tea", sender="ann", connection="ann-3")
    await ann.process.broker.announce(event)
    await ann.join("ann-2", sender="ann")
    await until(lambda: is_named(nobody, ann=2))
    await until(lambda: is_stored(server))
    assert (await nobody.process.broker.present("tea")).count == 1
    assert {vars(each)["room"] for each in caplog.records} == {"tea"}


async def is_stored(server: RedisServer) -> bool:
    """Return whether Redis has the roster of the room `tea`."""
    return server.call("TYPE", KEYS.room("tea").people) == b"hash"


async def test_while_redis_is_away_local_members_are_told_and_known(
    server: RedisServer, open_place: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rosters, "PATIENCE", 0.1)
    ann = await open_place("ann")
    await until(lambda: is_named(ann, ann=1))
    server.stop()
    await ann.join("bob-1", sender="bob")
    assert await ann.told(2) == {("joined", "ann-1"), ("joined", "bob-1")}
    assert await ann.present() == {"ann": 1, "bob": 1}
    event = PresenceEvent(type="joined", room="new", sender="ann", connection="ann-2")
    await ann.process.broker.announce(event)
    with pytest.raises(BrokerUnavailable):
        await ann.process.broker.present("new")


def rosters_of(place: Place) -> rosters.Rosters:
    """Return what a process knows of its members, for a look inside."""
    assert isinstance(place.process.broker, RedisBroker)
    return place.process.broker._rosters


async def test_an_error_of_ours_is_logged_and_rosters_are_exchanged_on(
    open_place: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ann = await open_place("ann")
    read_members = rosters.read_members
    failures = [RuntimeError("a bug")]

    def fail_once(text: bytes) -> Any:
        if failures:
            raise failures.pop()
        return read_members(text)

    monkeypatch.setattr(rosters, "read_members", fail_once)
    nobody = await open_place()
    await Place(nobody.process, Listener()).join("bob-1", sender="bob")
    await until(lambda: is_logged(caplog))
    await ann.join("ann-2", sender="ann")
    await until(lambda: is_named(nobody, ann=2, bob=1))


async def is_logged(caplog: pytest.LogCaptureFixture) -> bool:
    """Return whether an error of ours was logged."""
    return "failed to exchange rosters" in caplog.text


async def test_whoever_leaves_a_room_that_it_never_joined_is_not_told_of(open_place: Open) -> None:
    ann = await open_place("ann")
    await ann.leave("bob-1")
    await ann.leave("ann-1", sender="ann")
    await ann.leave("ann-1", sender="ann")
    assert await ann.told(1) == {("joined", "ann-1")}
    await until(lambda: is_named(ann))
    assert ann.listener.waiting() == 0
    assert rosters_of(ann)._presence._rosters == {}


async def test_many_rooms_are_told_of_and_asked_of(open_place: Open) -> None:
    ann, nobody = await open_place(), await open_place()
    for number in range(2 * rosters.MAX_ROOMS + 1):
        event = PresenceEvent(type="joined", room=str(number), sender="ann", connection="c")
        await ann.process.broker.announce(event)
    for number in range(2 * rosters.MAX_ROOMS + 1):
        assert (await ann.process.broker.present(str(number))).count == 1
        assert (await nobody.process.broker.present(str(number))).count == 1


async def test_every_process_closes_the_connections_of_a_subject(open_place: Open) -> None:
    ann, bob = await open_place("ann"), await open_place("bob")
    await ann.process.broker.close_subject("zoe ✓")
    for place in (ann, bob):
        await until(lambda place=place: closed(place, "zoe ✓"))


async def closed(place: Place, *subjects: str) -> bool:
    """Return whether these subjects were closed, each once."""
    return place.process.closed == [*subjects]


async def test_a_subject_that_is_closed_while_redis_cannot_be_read_is_closed_later(
    server: RedisServer, open_place: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ann = await open_place("ann")
    await ann.process.broker.close_subject("first")
    await until(lambda: closed(ann, "first"))
    server.call("CLIENT", "KILL", "TYPE", "normal")
    server.call("XADD", KEYS.closed, "*", "subject", "second")
    await until(lambda: closed(ann, "first", "second"))
    server.call("FLUSHALL")
    seconds, _ = server.call("TIME")
    server.call("XADD", KEYS.closed, f"{seconds - 10}000-0", "subject", "third")
    server.call("CLIENT", "KILL", "TYPE", "normal")
    await until(lambda: closed(ann, "first", "second", "third"))


async def test_an_error_of_ours_is_logged_and_nothing_stops(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    rooms, subjects = rooms_at(server.url), asyncio.Queue[str]()

    def close_subject(subject: str) -> None:
        if subject == "broken":
            raise LookupError(subject)
        subjects.put_nowait(subject)

    async with rooms.broker.lifespan(close_subject), asyncio.timeout(20):
        while not rooms.is_ready:
            await asyncio.sleep(0.01)
        for subject in ("first", "broken", "second"):
            await rooms.close_subject(subject)
        assert [await subjects.get() for _ in range(2)] == ["first", "second"]
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.message == "failed to read"


async def test_to_close_a_subject_is_refused_when_redis_takes_nothing(
    server: RedisServer, open_place: Open
) -> None:
    ann = await open_place("ann")
    await until(lambda: is_ready(ann))
    server.call("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(BrokerUnavailable):
        await ann.process.broker.close_subject("zoe")
    await until(lambda: is_not_ready(ann))
    server.call("CONFIG", "SET", "maxmemory", 0)
    await until(lambda: is_ready(ann))


async def is_ready(place: Place) -> bool:
    """Return whether a process can be used."""
    return place.process.broker.is_ready


async def is_not_ready(place: Place) -> bool:
    """Return whether it can't."""
    return not place.process.broker.is_ready


async def test_who_asks_while_the_last_member_leaves_gets_an_answer(
    open_place: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rosters, "PATIENCE", 60.0)
    ann = await open_place()
    await until(lambda: is_ready(ann))
    await ann.join("ann-1", sender="ann")
    asking = asyncio.create_task(ann.process.broker.present("lobby"))
    await asyncio.sleep(0)
    await ann.leave("ann-1", sender="ann")
    async with asyncio.timeout(20):
        await asking


async def test_a_subject_that_is_closed_before_a_process_reaches_redis_is_closed(
    server: RedisServer,
) -> None:
    server.stop()
    async with running_process(rooms_at(server.url)) as process:
        await asyncio.sleep(0)
        server.start()
        seconds, _ = server.call("TIME")
        server.call("XADD", KEYS.closed, f"{seconds - 3600}000-0", "subject", "long ago")
        server.call("XADD", KEYS.closed, "*", "subject", "zoe")
        async with asyncio.timeout(20):
            while not process.closed:
                await asyncio.sleep(0.01)
        assert process.closed == ["zoe"]


async def test_answers_about_a_room_that_was_left_meanwhile_change_nothing(
    open_place: Open,
) -> None:
    known = rosters_of(await open_place())
    known._take_people("left", [DEAD.encode(), b'{"senders": {"c": "zoe"}}'])
    assert known._views == {}


async def test_profiles_are_known_in_all_processes(open_place: Open) -> None:
    ann, bob = await open_place("ann"), await open_place("bob")
    assert len(await ann.told(2)) + len(await bob.told(1)) == 3
    event = PresenceEvent(type="joined", room="lobby", sender="zoe", connection="zoe-1")
    event.profile = Profile(name="Zoë")
    await ann.process.broker.announce(event)
    assert (await bob.listener.next())["profile"] == {"name": "Zoë"}
    for place in (ann, bob, await open_place(), await open_place("eve")):
        present = await place.process.broker.present("lobby")
        assert {each.sender: each.profile for each in present.members}["zoe"] == event.profile


class Noted:
    """What processes note of who comes and goes."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[str] = asyncio.Queue()

    def note(self, event: PresenceEvent) -> None:
        self._events.put_nowait(f"{event.sender} {event.type}")

    async def next(self) -> str:
        """Return the next one, and check that there are no more."""
        async with asyncio.timeout(20):
            event = await self._events.get()
        assert self._events.empty()
        return event


async def noting_place(open_place: Open, noted: Noted) -> Place:
    """Start a broker whose hooks are called, and wait until missing processes count as dead."""
    place = await open_place(note=noted.note)
    await until(lambda: is_trusting(place))
    return place


async def is_trusting(place: Place) -> bool:
    """Return whether missing processes count as dead."""
    return rosters_of(place)._trusted_at < asyncio.get_running_loop().time()


async def are_counted_in(server: RedisServer, count: int) -> bool:
    """Return whether `zoe` is counted in so many processes."""
    found = await asyncio.to_thread(server.call, "HGET", HERE.senders, "zoe")
    return len((found or b"").split()) == count


async def test_only_the_first_connection_and_the_last_of_all_processes_are_noted(
    server: RedisServer, open_place: Open
) -> None:
    noted = Noted()
    places = [await open_place(note=noted.note) for _ in range(3)]
    await asyncio.gather(*(place.join(f"c{n}") for n, place in enumerate(places)))
    assert await noted.next() == "zoe joined"
    await until(lambda: are_counted_in(server, 3))
    await places[0].leave("c0")
    await until(lambda: are_counted_in(server, 2))
    await places[0].join("c0")
    await until(lambda: are_counted_in(server, 3))
    await asyncio.gather(*(place.leave(f"c{n}") for n, place in enumerate(places)))
    assert await noted.next() == "zoe left"
    assert not server.call("EXISTS", HERE.senders)
    own = rosters_of(places[0])._own.decode()
    await until(lambda: asyncio.to_thread(lambda: not server.call("EXISTS", KEYS.rooms(own))))


@pytest.mark.parametrize(
    "members",
    ['{"senders": {"eve-1": "eve", "zoe-2": "zoe"}, "profiles": {"eve": {}}}', '{"count": 2}'],
)
async def test_members_of_a_dead_process_are_noted_once(
    server: RedisServer, open_place: Open, members: str
) -> None:
    noted = Noted()
    places = [await open_place(note=noted.note) for _ in range(2)]
    await places[0].join("zoe-1")
    assert await noted.next() == "zoe joined"
    await places[1].join("bob-1", sender="bob")
    assert await noted.next() == "bob joined"
    await asyncio.to_thread(add_dead_process, server, "eve", "zoe", members=members)
    assert await noted.next() == "eve left"
    await places[0].leave("zoe-1")
    assert await noted.next() == "zoe left"
    assert not server.call("EXISTS", KEYS.rooms(DEAD))


async def test_members_of_a_dead_process_are_noted_where_nobody_else_is(
    server: RedisServer, open_place: Open
) -> None:
    noted = Noted()
    await asyncio.to_thread(add_dead_process, server, "eve")
    server.call("DEL", HERE.people)  # it has expired
    place = await open_place(note=noted.note)
    assert await noted.next() == "eve left"
    await until(lambda: asyncio.to_thread(lambda: not server.call("ZSCORE", KEYS.processes, DEAD)))
    await place.join("eve-2", sender="eve")
    assert await noted.next() == "eve joined"
    server.call("ZADD", KEYS.processes, 1, b"\xff", 1, "strange")
    server.call("SET", KEYS.rooms(DEAD), "not ours")
    await asyncio.to_thread(add_dead_process, server)
    seconds, _ = server.call("TIME")
    server.call("ZADD", KEYS.processes, seconds - 100, DEAD)
    await until(lambda: asyncio.to_thread(lambda: not server.call("ZSCORE", KEYS.processes, DEAD)))
    assert not server.call("EXISTS", KEYS.rooms(DEAD))
    await place.leave("eve-2", sender="eve")
    assert await noted.next() == "eve left"


async def test_members_are_noted_that_a_process_has_when_it_stops(
    server: RedisServer, open_place: Open
) -> None:
    noted = Noted()
    ann = await open_place(note=noted.note)
    async with running_process(rooms_at(server.url), noted.note) as process:
        await Place(process, Listener()).join("bob-1", sender="bob")
        assert await noted.next() == "bob joined"
    assert await noted.next() == "bob left"
    assert server.call("ZRANGE", KEYS.processes, 0, -1) == [rosters_of(ann)._own]


async def test_counts_of_a_wrong_type_hold_nothing_up(
    server: RedisServer, open_place: Open, caplog: pytest.LogCaptureFixture
) -> None:
    noted = Noted()
    place = await open_place(note=noted.note)
    await place.join("zoe-1")
    assert await noted.next() == "zoe joined"
    server.call("DEL", HERE.senders)
    server.call("SET", HERE.senders, "of another program")
    await place.join("eve-1", sender="eve")
    assert await noted.next() == "eve joined"
    await until(lambda: are_counted_in(server, 1))
    assert [vars(each)["room"] for each in caplog.records] == ["lobby"]
    await place.leave("zoe-1")
    assert await noted.next() == "zoe left"


async def test_members_of_a_process_that_was_paused_are_noted_when_it_is_back(
    server: RedisServer, open_place: Open
) -> None:
    noted = Noted()
    ann, bob = await noting_place(open_place, noted), await noting_place(open_place, noted)
    await ann.join("zoe-1")
    assert await noted.next() == "zoe joined"
    await bob.join("bob-1", sender="bob")
    assert await noted.next() == "bob joined"
    assert isinstance(bob.process.broker, RedisBroker)
    bobs = bob.process.broker._reader
    beat, resumed = bobs._beat, asyncio.Event()

    async def pause(link: Any) -> None:
        await resumed.wait()
        await beat(link)

    bobs._beat = pause
    assert await noted.next() == "bob left"
    resumed.set()
    assert await noted.next() == "bob joined"
    await until(lambda: is_named(ann, zoe=1, bob=1))
    await bob.leave("bob-1", sender="bob")
    assert await noted.next() == "bob left"
    await until(lambda: is_named(ann, zoe=1))


async def test_a_process_that_hangs_takes_no_other_for_dead(
    server: RedisServer, open_place: Open
) -> None:
    noted = Noted()
    ann, nobody = await open_place("ann", note=noted.note), await noting_place(open_place, noted)
    assert await noted.next() == "ann joined"
    assert await nobody.present() == {"ann": 1}
    time.sleep(2 * rosters.PROCESS_SECONDS)  # nothing runs meanwhile
    for _ in range(3):
        assert await nobody.present() == {"ann": 1}
        await asyncio.sleep(reader.BEAT_SECONDS)  # the heartbeats that follow kill nobody either
    await ann.leave("ann-1", sender="ann")
    assert await noted.next() == "ann left"


async def test_a_sender_that_leaves_while_all_are_counted_again_is_noted_once(
    server: RedisServer, open_place: Open
) -> None:
    noted = Noted()
    ann, bob = await noting_place(open_place, noted), await noting_place(open_place, noted)
    await asyncio.gather(ann.join("zoe-1"), bob.join("zoe-2"))
    assert await noted.next() == "zoe joined"
    await until(lambda: are_counted_in(server, 2))
    commands = rosters_of(ann)._commands
    run_once = commands.run_once

    async def let_bob_leave(*sent: Any) -> list[Any]:
        answers = await run_once(*sent)
        if any("restore" in each for each in sent):
            await bob.leave("zoe-2")
            await until(lambda: is_idle(bob))
        return answers

    commands.run_once = let_bob_leave
    rosters_of(ann).senders.restore("lobby")
    await ann.leave("zoe-1")
    assert await noted.next() == "zoe left"
    await ann.join("eve-1", sender="eve")
    assert await noted.next() == "eve joined"


async def is_idle(place: Place) -> bool:
    """Return whether everything was counted."""
    return not rosters_of(place).senders.is_busy


@pytest.mark.parametrize("kind", ["joined", "left"])
async def test_a_count_whose_answer_was_lost_is_repeated_and_noted(
    server: RedisServer, open_place: Open, kind: str
) -> None:
    noted = Noted()
    ann, bob = await noting_place(open_place, noted), await noting_place(open_place, noted)
    if kind == "left":
        await asyncio.gather(ann.join("zoe-1"), bob.join("zoe-2"))
        assert await noted.next() == "zoe joined"
        await until(lambda: are_counted_in(server, 2))
    commands = rosters_of(ann)._commands
    run_once, lost = commands.run_once, list[str]()

    async def lose_answer(*sent: Any) -> list[Any]:
        answers = await run_once(*sent)
        if not lost and any(rosters.COUNT_SHA in each for each in sent):
            lost.append(kind)
            await (bob.join("zoe-2") if kind == "joined" else bob.leave("zoe-2"))
            await until(lambda: are_counted_in(server, 2 if kind == "joined" else 0))
            await commands.close()
            raise ConnectionError
        return answers

    commands.run_once = lose_answer
    await (ann.join("zoe-1") if kind == "joined" else ann.leave("zoe-1"))
    assert await noted.next() == f"zoe {kind}"
    assert lost == [kind]
    await ann.join("eve-1", sender="eve")
    assert await noted.next() == "eve joined"


async def test_a_leave_that_a_failover_lost_is_counted_again(
    server: RedisServer, open_place: Open
) -> None:
    noted = Noted()
    ann = await noting_place(open_place, noted)
    own = rosters_of(ann)._own.decode()
    server.call("HSET", HERE.senders, "zoe", f" {own}")
    server.call("SADD", KEYS.rooms(own), "lobby")
    server.call("ZREM", KEYS.processes, own)  # with which it loses all that it knows of others
    await until(lambda: are_counted_in(server, 0))
    await ann.join("zoe-1")
    assert await noted.next() == "zoe joined"


async def test_what_redis_rejects_is_not_sent_again_at_once(
    server: RedisServer, open_place: Open
) -> None:
    noted = Noted()
    ann, bob = await open_place("ann"), await open_place("bob", note=noted.note)
    assert await noted.next() == "bob joined"
    await until(lambda: is_ready(ann))
    server.call("CONFIG", "SET", "maxmemory", 1)
    commands = rosters_of(ann)._commands
    run_once, sent = commands.run_once, list[Any]()

    async def count(*given: Any) -> list[Any]:
        sent.append(given)
        return await run_once(*given)

    commands.run_once = count
    await ann.join("zoe-1")
    await bob.join("eve-1", sender="eve")
    await asyncio.sleep(3 * rosters.RETRY_SECONDS)  # there is no event for what does not happen
    assert len(sent) < 10
    server.call("CONFIG", "SET", "maxmemory", 0)
    nobody = await open_place()
    await until(lambda: is_named(nobody, ann=1, bob=1, eve=1, zoe=1))
    assert await noted.next() == "eve joined"


async def test_who_stays_for_days_is_not_forgotten(
    server: RedisServer, open_place: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rosters, "KEEP_SECONDS", 2)
    noted = Noted()
    ann, bob = await open_place(note=noted.note), await open_place(note=noted.note)
    await ann.join("zoe-1")
    await bob.join("zoe-2")
    assert await noted.next() == "zoe joined"
    await until(lambda: is_ready(ann))
    await until(lambda: is_ready(bob))
    await until(lambda: are_counted_in(server, 2))
    server.call("DEL", HERE.senders)  # as if it had expired
    await until(lambda: are_counted_in(server, 2))
    await ann.leave("zoe-1")
    await bob.leave("zoe-2")
    assert await noted.next() == "zoe left"


async def test_what_is_noted_survives_an_outage_and_a_loss(
    server: RedisServer, open_place: Open
) -> None:
    noted = Noted()
    ann, bob = await open_place(note=noted.note), await open_place(note=noted.note)
    await ann.join("zoe-1")
    await bob.join("zoe-2")
    assert await noted.next() == "zoe joined"
    await asyncio.to_thread(server.stop)
    await ann.join("eve-1", sender="eve")
    await asyncio.to_thread(server.start)
    assert await noted.next() == "eve joined"
    await until(lambda: are_counted_in(server, 2))
    await ann.leave("zoe-1")
    await bob.leave("zoe-2")
    assert await noted.next() == "zoe left"
