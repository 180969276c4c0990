"""Names of keys."""

import pytest

from ..redis_server import KEYS, RedisServer
from .talk import Start

pytestmark = pytest.mark.anyio


async def test_keys_share_a_hash_tag_and_expire(server: RedisServer, start: Start) -> None:
    process = await start(server.url)
    await process.join("tea")
    await process.publish("a", "tea", ref="r1")
    keys = [key.decode() for key in server.call("KEYS", "*")]
    room_keys = [key for key in keys if ":{tea}" in key]
    assert len(room_keys) == 4
    assert len(keys) == 5  # one says that the process is alive
    assert all(server.call("TTL", key) > 0 for key in keys)


@pytest.mark.parametrize("room", ["a}b", "}", "{}", "50%", "%7D"])
def test_the_tag_of_a_room_is_its_own(room: str) -> None:
    keys = KEYS.room(room)
    tags = {key.partition("{")[2].partition("}")[0] for key in (keys.head, keys.log, keys.refs)}
    (tag,) = tags
    assert tag.replace("%7D", "}").replace("%25", "%") == room
