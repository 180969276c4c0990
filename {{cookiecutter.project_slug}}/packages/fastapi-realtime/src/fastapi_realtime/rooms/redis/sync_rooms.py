"""Publishing without an event loop, from other processes than the server."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from typing import Any

from redis.exceptions import ResponseError

from ..access import RoomAccess, RoomPolicy
from ..broker import BrokerUnavailable
from ..events import MessageEvent
from .broker import RedisSettings
from .connection import Commands
from .history import pack
from .publisher import publish_command, read_positions
from .scripts import Command, Keys
from .servers import FAILURES, MOVED_ON, Servers

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

    def publish(self, room: str, data: Any, sender: str = "", ref: str = "") -> str:
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
        message = self._access.ref_key(sender, ref).encode(), b"", *packed
        # As if from a process of its own: Redis knows it when it is repeated.
        batch = token_hex(8), 1
        command = publish_command(self._keys, room, [message], batch, self._history_length)
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
        self._commands = Commands(Servers(url))
        self._runner = asyncio.Runner()
        self._thread = ThreadPoolExecutor(1, "publish")

    def publish(self, command: Command) -> str:
        """Publish, and return the id; raises `BrokerUnavailable`. Calls wait for each other."""
        return self._thread.submit(lambda: self._runner.run(self._publish(command))).result()

    def close(self) -> None:
        """Close the connection, and end the thread."""
        self._thread.submit(lambda: self._runner.run(self._commands.close())).result()
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    async def _publish(self, command: Command) -> str:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while True:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    (answer,) = await self._commands.run_once(command)
                ((epoch, offset),) = read_positions(answer, 1)
                return f"{epoch}-{offset}"
            except FAILURES as error:
                is_refused = isinstance(error, ResponseError) and not isinstance(error, MOVED_ON)
                if is_refused or loop.time() > deadline:
                    raise BrokerUnavailable from error
            await asyncio.sleep(RETRY_SECONDS)
