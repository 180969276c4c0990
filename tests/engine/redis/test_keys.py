"""Names of keys."""

import pytest
from fastapi_realtime.rooms import Rooms
from fastapi_realtime.rooms.events import PresenceEvent
from fastapi_realtime.rooms.redis import RedisSettings, redis_broker

from ..brokers import running_process
from ..redis_server import KEYS, RedisServer, rooms_at
from .talk import Start, until

pytestmark = pytest.mark.anyio


async def test_keys_share_a_hash_tag_and_expire(server: RedisServer) -> None:
    noted: list[PresenceEvent] = []
    async with running_process(rooms_at(server.url), noted.append) as process:
        await process.join("tea")
        event = PresenceEvent(type="joined", room="tea", sender="zoe", connection="c")
        await process.broker.announce(event)
        await process.publish("a", "tea", ref="r1")
        await until(lambda: noted and server.call("EXISTS", KEYS.processes))
        await process.broker.present("tea")
        keys = [key.decode() for key in server.call("KEYS", "*")]
        assert len([key for key in keys if ":{tea}" in key]) == 7
        assert len(keys) == 9  # the processes, and the rooms of this one
        assert all(server.call("TTL", key) > 0 for key in keys)


class ShopSettings(RedisSettings):
    """Settings of an application in the package `shop`."""

    __module__ = "shop.settings"


async def test_two_applications_share_a_redis_and_no_rooms(
    server: RedisServer, start: Start
) -> None:
    ours = await start(server.url)
    member = await ours.join()
    settings = ShopSettings.model_validate({"broker_url": server.url})
    async with running_process(Rooms(settings, broker=redis_broker)) as theirs:
        assert (await theirs.publish("for nobody here")).endswith("-1")
        assert (await ours.publish("for us")).endswith("-1")
    assert await member.take(1) == ["for us"]
    keys = [key.decode() for key in server.call("KEYS", "*")]
    assert {key.partition(":")[0] for key in keys} == {"shop", "fastapi_realtime"}


@pytest.mark.parametrize("room", ["a}b", "}", "{}", "50%", "%7D"])
def test_the_tag_of_a_room_is_its_own(room: str) -> None:
    keys = KEYS.room(room)
    tags = {key.partition("{")[2].partition("}")[0] for key in (keys.head, keys.log, keys.refs)}
    (tag,) = tags
    assert tag.replace("%7D", "}").replace("%25", "%") == room
