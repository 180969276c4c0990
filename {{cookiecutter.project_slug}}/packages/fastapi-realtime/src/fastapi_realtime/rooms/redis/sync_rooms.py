"""Publishing without an event loop, from other processes than the server."""

import os
import time
from contextlib import suppress
from itertools import count
from secrets import token_hex
from threading import Lock
from typing import Any

from pydantic import JsonValue
from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from ..access import RoomAccess, RoomPolicy
from ..broker import BrokerUnavailable
from ..events import MessageEvent
from .broker import RedisSettings
from .keys import Keys, RoomKeys
from .link import FORCED, MOVED_ON
from .messages import pack
from .scripts import PUBLISH
from .unsent import Publication, publish_command

PATIENCE = 3.0
"""Seconds within which Redis must confirm a message."""
ANSWER_SECONDS = 1.0
"""Seconds to wait for a connection or an answer, for each attempt."""
RETRY_SECONDS = 0.1
"""Seconds between two attempts."""


class SyncRooms:
    """Publishes to rooms from code without an event loop: a Celery task, a script, a thread.

    Can be created once, at import. It is thread-safe, and can be used after a fork.
    """

    def __init__(self, settings: RedisSettings, policy: RoomPolicy | None = None) -> None:
        """`policy` is that of the application; without tokens, pass none.

        Raises `ValueError` for `memory://`: other processes can't reach these rooms.
        """
        if settings.is_in_memory:
            raise ValueError("these rooms are in the server's memory; use post_message()")
        self._url = settings.broker_url.get_secret_value()
        self._history_length = settings.history_length
        self._access = RoomAccess(policy)
        self._keys = Keys(settings.application)
        # By process: another thread of a parent may hold one at a fork.
        self._locks: dict[int, Lock] = {}
        self._pid = 0

    def publish(self, room: str, data: JsonValue, sender: str = "", ref: str = "") -> str:
        """Send a message to all members of a room, and return its id.

        A `ref` makes a retry safe: if the room's history has a message of the same sender with
        this `ref`, nothing is sent and the id of that message is returned. The policy is not
        consulted.

        Raises `ValueError` for an invalid room name, and `BrokerUnavailable` if Redis rejects the
        message or does not confirm it within `PATIENCE` seconds. It may have been published
        then: retry with the same `ref`.
        """
        self._access.check_target(room)
        packed = pack(MessageEvent(room=room, sender=sender, data=data))
        key = self._access.ref_key(sender, ref)
        deadline = time.monotonic() + PATIENCE
        lock = self._locks.setdefault(os.getpid(), Lock())
        if not lock.acquire(timeout=PATIENCE):
            raise BrokerUnavailable
        try:
            self._connect_once()
            publication = Publication(key.encode(), b"", packed, next(self._numbers))
            epoch, offset = self._send(self._keys.room(room), publication, deadline)
        finally:
            lock.release()
        return f"{epoch.decode()}-{int(offset)}"

    def close(self) -> None:
        """Close the connection; the next `publish` opens a new one."""
        if self._pid == os.getpid():
            self._redis.connection_pool.disconnect()

    def _connect_once(self) -> None:
        """Create the connection and the process name, once in each process, also after a fork."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._process = token_hex(4)
            self._numbers = count(1)
            options = parse_url(self._url) | FORCED
            options |= {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS}
            pool = ConnectionPool(retry=Retry(NoBackoff(), 0), **options)
            self._redis = Redis(connection_pool=pool)

    def _send(self, keys: RoomKeys, publication: Publication, deadline: float) -> Any:
        """Send a message until Redis confirms it; repeating it does not publish it twice."""
        command = publish_command(keys, [publication], self._process, self._history_length)
        while True:
            try:
                return self._redis.execute_command(*command)
            except RedisError as error:
                self._recover(error, deadline)

    def _recover(self, error: RedisError, deadline: float) -> None:
        """Prepare another attempt, or raise `BrokerUnavailable`."""
        is_refused = isinstance(error, ResponseError) and not isinstance(error, MOVED_ON)
        if is_refused or time.monotonic() > deadline:
            raise BrokerUnavailable from error
        if isinstance(error, NoScriptError):
            with suppress(RedisError):
                self._redis.script_load(PUBLISH)
        else:
            self._redis.connection_pool.disconnect()
            time.sleep(RETRY_SECONDS)
