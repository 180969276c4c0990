"""Publishing without an event loop, from other processes than the server."""

import time
from secrets import token_hex
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import JsonValue
from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, parse_url
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from ..access import RoomAccess, RoomPolicy
from ..broker import BrokerUnavailable
from ..events import MessageEvent
from .broker import RedisSettings
from .connection import FORCED, MOVED_ON, read_info
from .log import pack
from .publisher import publish_command, read_positions
from .scripts import PUBLISH, Keys

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
        options = parse_url(settings.broker_url.get_secret_value()) | FORCED
        options |= {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS}
        options |= {"retry": Retry(NoBackoff(), 0), "redis_connect_func": self._greet}
        self._pool = ConnectionPool(**options)
        self._servers: WeakKeyDictionary[AbstractConnection, str] = WeakKeyDictionary()
        self._history_length = settings.history_length
        self._access = RoomAccess(policy)
        self._keys = Keys(settings.application)

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
        message = self._access.ref_key(sender, ref).encode(), b"", packed
        # As if from a process of its own: Redis knows it when it is repeated.
        batch = token_hex(8), 1
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                ((epoch, offset),) = read_positions(self._send(room, message, batch), 1)
                return f"{epoch}-{offset}"
            except RedisError as error:
                self._recover(error, deadline)

    def close(self) -> None:
        """Close all connections; the next `publish` opens a new one."""
        self._pool.disconnect()

    def _send(self, room: str, message: tuple[bytes, bytes, bytes], batch: tuple[str, int]) -> Any:
        connection = self._pool.get_connection()
        try:
            keys, server = self._keys.room(room), self._servers[connection]
            length = self._history_length
            command = publish_command(keys, self._keys.news, [message], batch, server, length)
            connection.send_command(*command)
            try:
                return connection.read_response()
            except NoScriptError:
                connection.send_command("SCRIPT", "LOAD", PUBLISH)
                connection.read_response()
                connection.send_command(*command)
                return connection.read_response()
        finally:
            self._pool.release(connection)

    def _greet(self, connection: AbstractConnection) -> None:
        """Set up a connection, and note which instance of Redis it leads to."""
        connection.on_connect()
        connection.send_command("INFO", "server")
        self._servers[connection], _ = read_info(connection.read_response())

    def _recover(self, error: RedisError, deadline: float) -> None:
        """Prepare another attempt, or raise `BrokerUnavailable`."""
        is_refused = isinstance(error, ResponseError) and not isinstance(error, MOVED_ON)
        if is_refused or time.monotonic() > deadline:
            raise BrokerUnavailable from error
        self._pool.disconnect(inuse_connections=False)
        time.sleep(RETRY_SECONDS)
