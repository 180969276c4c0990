"""Rooms over a cluster, and over a primary that sentinels name."""

import asyncio
from collections.abc import Iterator

import pytest
from fastapi_realtime.rooms.events import PresenceEvent
from fastapi_realtime.rooms.redis import RedisSettings, SyncRooms

from ..redis_server import KEYS
from .nodes import Cluster, Node, folder_for_nodes, running_cluster, running_sentinel
from .talk import Start, Talk, ready, resume, until

pytestmark = pytest.mark.anyio

ROOMS = [f"room {number}" for number in range(12)]


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    """A cluster for tests that do it no harm."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster for one test."""
    with running_cluster() as cluster:
        yield cluster


async def test_rooms_are_on_all_nodes(shared_cluster: Cluster, start: Start) -> None:
    assert {shared_cluster.primary_of(KEYS.room(room).head) for room in ROOMS} == {0, 1, 2}
    rights = "~fastapi_realtime:* &fastapi_realtime:* +@all -@admin -@dangerous +info"
    for node in shared_cluster.nodes:
        node.call("ACL", "SETUSER", "chat", "on", ">secret", *rights.split())
    url = shared_cluster.url.replace("//", "//chat:secret@")
    processes = [await start(url) for _ in range(2)]
    await ready(*processes)
    listeners = [await processes[index % 2].join(room) for index, room in enumerate(ROOMS)]
    for number in range(5):
        for room in ROOMS:
            await processes[number % 2].publish(number, room)
    for listener in listeners:
        assert await listener.take(5) == [0, 1, 2, 3, 4]
    for room in ROOMS:
        _, replay = await resume(processes[0], f"{'0' * 8}-0", room)
        assert len(replay.frames) == 5


async def test_a_script_publishes_to_a_cluster(shared_cluster: Cluster, start: Start) -> None:
    process = await start(shared_cluster.url)
    listener = await process.join("tea")
    rooms = SyncRooms(RedisSettings.model_validate({"broker_url": shared_cluster.url}))
    published = await asyncio.to_thread(rooms.publish, "tea", "Hello")
    assert (await listener.next())["id"] == published
    await asyncio.to_thread(rooms.close)


async def test_a_slot_moves_while_its_room_talks(
    cluster: Cluster, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    processes = [await start(cluster.url, history_length=100_000) for _ in range(2)]
    await ready(*processes)
    head = KEYS.room("lobby").head
    to = (cluster.primary_of(head) + 1) % 3
    async with Talk(*processes) as talk:
        await talk.more()
        for step in (cluster.begin_to_move, cluster.move_keys, cluster.end_move):
            await asyncio.to_thread(step, head, to)
        await talk.more()
    await talk.check()
    assert talk.refused == []
    assert caplog.records == []


async def test_what_has_moved_is_read_and_publishers_wait_for_the_rest(
    cluster: Cluster, start: Start
) -> None:
    processes = [await start(cluster.url) for _ in range(2)]
    await ready(*processes)
    await processes[0].join()
    joined = PresenceEvent(type="joined", room="lobby", sender="ann", connection="a")
    await processes[0].broker.announce(joined)
    await processes[0].broker.present("lobby")  # when it is stored
    head = KEYS.room("lobby").head
    source, to = cluster.primary_of(head), (cluster.primary_of(head) + 1) % 3
    cluster.begin_to_move(head, to)
    waiting = asyncio.create_task(processes[0].publish("Hello"))
    await until(lambda: "errorstat_TRYAGAIN" in cluster.nodes[source].call("INFO", "errorstats"))
    await asyncio.to_thread(cluster.move_keys, head, to)
    present = await processes[1].broker.present("lobby")
    assert [each.sender for each in present.members or ()] == ["ann"]
    cluster.end_move(head, to)
    assert (await waiting).endswith("-1")


async def test_a_node_that_is_killed_is_replaced_by_its_replica(
    cluster: Cluster, start: Start
) -> None:
    processes = [await start(cluster.url, history_length=100_000) for _ in range(2)]
    await ready(*processes)
    lost = cluster.primary_of(KEYS.room("lobby").head)
    async with Talk(*processes) as talk:
        await talk.more()
        await asyncio.to_thread(cluster.nodes[lost].kill)
        await until(lambda: not processes[0].broker.is_ready)
        await until(lambda: processes[0].broker.is_ready)
        await talk.more()
    last = await processes[0].publish("last")
    for number, listener in enumerate(talk.listeners):
        events = [await listener.next()]
        while events[-1].get("id") != last:
            events.append(await listener.next())
        texts = [str(event["data"]) for event in events if event["type"] == "message"]
        assert len(texts) == len({*texts})
        for name in {text.split()[0] for text in texts}:
            own = [text for text in texts if text.startswith(name)]
            assert own == sorted(own)
        # What the replica never had is known to be lost only where it was accepted.
        accepted = {text for text in talk.accepted if text.startswith(str(number))}
        assert accepted <= {*texts} or "gap" in {event["type"] for event in events}


async def test_a_primary_that_is_killed_is_replaced_by_the_one_that_sentinels_name(
    start: Start,
) -> None:
    with running_sentinel() as (primary, replica, sentinel):
        url = f"redis+sentinel://127.0.0.1:1,{sentinel.address}/chat/0"
        processes = [await start(url, history_length=100_000) for _ in range(2)]
        await ready(*processes)
        listener = await processes[0].join()
        first = await processes[1].publish("before")
        primary.call("WAIT", 1, 10_000)
        primary.kill()
        await until(lambda: not processes[1].broker.is_ready)
        await ready(*processes)
        assert replica.call("ROLE")[0] == b"master"
        second = await processes[1].publish("after")
        assert [event["id"] for event in [await listener.next(), await listener.next()]] == [
            first,
            second,
        ]


@pytest.mark.parametrize(
    "url", ["redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/chat"]
)
async def test_servers_that_are_all_away_are_one_clear_line(
    start: Start, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await start(url)
    await until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.message == "Redis is not available"
    assert "Connect call failed" in vars(record)["reason"]


async def test_a_service_that_sentinels_do_not_know_is_named(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with running_sentinel() as (_, _, sentinel):
        await start(f"redis+sentinel://{sentinel.address}/other")
        await until(lambda: caplog.records)
    assert "no sentinel knows the service other" in vars(caplog.records[0])["reason"]


async def test_a_cluster_without_slots_is_not_available(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with folder_for_nodes() as folder:
        node = Node(folder / "node", "--cluster-enabled", "yes")
        try:
            await start(f"redis+cluster://{node.address}")
            await until(lambda: caplog.records)
        finally:
            node.kill()
    assert "the cluster has no slots" in vars(caplog.records[0])["reason"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+cluster://", "a broker is"),
        ("redis+cluster://host,", "a broker is"),
        ("redis+cluster://host:x", "a broker is"),
        ("redis+cluster://host:0", "a broker is"),
        ("redis+cluster://host/1", "no other database than 0"),
        ("redis+cluster://host?db=1", "no other database than 0"),
        ("redis+cluster://host/chat", "must be a number"),
        ("redis+cluster://host?nonsense=1", "an option does not exist"),
        ("redis+cluster://host#1", "a broker is"),
        ("unix+cluster://host", "a broker is"),
        ("redis+sentinel://host", "a broker is"),
        ("redis+sentinel://host/0", None),
        ("redis+sentinel://host/chat", None),
        ("rediss+sentinel://ann:secret@one,[::1]:26380/chat/3?ssl_check_hostname=false", None),
        ("redis+cluster://:p%40ss@one:6379,two/0", None),
    ],
)
async def test_urls_of_several_servers(url: str, reason: str | None) -> None:
    if reason is None:
        assert (
            RedisSettings.model_validate({"broker_url": url}).broker_url.get_secret_value() == url
        )
    else:
        with pytest.raises(ValueError, match=reason):
            RedisSettings.model_validate({"broker_url": url})
