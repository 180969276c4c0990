"""Publishing without an event loop, from other processes than the server."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from typing import Any

from pydantic import JsonValue
from redis.exceptions import ResponseError

from ..access import RoomAccess, RoomPolicy
from ..broker import BrokerUnavailable
from ..events import MessageEvent
from .broker import RedisSettings
from .log import pack
from .publisher import publish_command, read_positions
from .scripts import Keys
from .servers import FAILURES, MOVED_ON, Command, Link, Servers

PATIENCE = 3.0
"""Seconds within which Redis must confirm a message."""
ANSWER_SECONDS = 1.0
"""Seconds to wait for a connection or an answer, for each attempt."""
RETRY_SECONDS = 0.1
"""Seconds between two attempts."""


class SyncRooms:
    """Publishes to rooms from code without an event loop: a Celery task, a script, a thread.

    Can be created once, at import. It is thread-safe, and can be used after a fork. There is one
    connection, in a thread of its own.
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
        self._senders: dict[int, Sender] = {}

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
        batch, keys = (token_hex(8), 1), self._keys
        command = publish_command(
            keys.room(room), keys.news, [message], batch, self._history_length
        )
        process = os.getpid()  # a fork has no thread
        if process not in self._senders:
            self._senders.setdefault(process, Sender(self._url))
        return self._senders[process].publish(command)

    def close(self) -> None:
        """Close the connection; the next `publish` opens a new one."""
        if sender := self._senders.pop(os.getpid(), None):
            sender.close()


class Sender:
    """Publishes in a thread of its own, which has an event loop."""

    def __init__(self, url: str) -> None:
        self._servers = Servers(url)
        self._link: Link | None = None
        self._runner = asyncio.Runner()
        self._thread = ThreadPoolExecutor(1, "publish")

    def publish(self, command: Command) -> str:
        """Publish, and return the id; raises `BrokerUnavailable`. Calls wait for each other."""
        return self._thread.submit(lambda: self._runner.run(self._publish(command))).result()

    def close(self) -> None:
        """Close the connection, and end the thread."""
        self._thread.submit(lambda: self._runner.run(self._disconnect())).result()
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    async def _publish(self, command: Command) -> str:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while True:
            try:
                ((epoch, offset),) = read_positions(await self._send(command), 1)
                return f"{epoch}-{offset}"
            except FAILURES as error:
                await self._disconnect()
                is_refused = isinstance(error, ResponseError) and not isinstance(error, MOVED_ON)
                if is_refused or loop.time() > deadline:
                    raise BrokerUnavailable from error
            await asyncio.sleep(RETRY_SECONDS)

    async def _send(self, command: Command) -> Any:
        async with asyncio.timeout(ANSWER_SECONDS):
            if self._link is None:
                self._link = self._servers.link()
                await self._link.connect()
            return await self._link.request(*command)

    async def _disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()
