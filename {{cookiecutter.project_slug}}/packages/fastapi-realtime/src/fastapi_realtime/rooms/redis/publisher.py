"""Publishing to Redis: in order, over one connection, and once, also across reconnects."""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from ..broker import BrokerUnavailable
from .connection import CHANGED_KEYS, PATIENCE, Shared, keep_connected
from .history import UNKEPT, StoredBytes
from .reader import Cursor
from .scripts import (
    NOTICE_BYTES,
    PUBLISH_SHA,
    ROOM_BYTES,
    SENT_SECONDS,
    Command,
    Keys,
    room_arguments,
)
from .servers import MOVED_ON, Link, raise_moved_on

KNOWN_SECONDS = SENT_SECONDS / 2
"""Seconds for which a batch may be sent again; Redis remembers it for longer."""
MAX_BATCH = 256
"""Maximum messages in one batch."""
MAX_BATCH_BYTES = 256 * 1024
"""The same in bytes, but at least one message; so that it fits into `ANSWER_SECONDS`."""
MAX_WAITING = 10_000
"""Messages above this many in the queue are rejected at once."""
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""The same in bytes."""


@dataclass(slots=True, eq=False)
class Unconfirmed:
    """A message that Redis has not confirmed."""

    room: str
    cursor: Cursor | None  # that of the room, if it has members in this process
    kind: bytes
    packed: bytes
    origin: bytes
    ref: bytes
    address: str  # that of the client that sent it, or an empty string
    published: asyncio.Future[str]  # its id

    def settle(self, position: tuple[str, int] | None) -> None:
        """Record where it was published; `None` if it was not, or if that is unknown."""
        if self.cursor is not None:
            self.cursor.confirm(position)
            self.cursor = None  # so that it is not counted again
        if self.published.done():
            return  # its publisher no longer waits
        if position is None:
            self.published.set_exception(BrokerUnavailable())
        else:
            is_kept = self.kind != UNKEPT
            self.published.set_result(f"{position[0]}-{position[1]}" if is_kept else "")


def publish_command(
    keys: Keys,
    room: str,
    messages: Iterable[tuple[bytes, bytes, bytes, bytes]],
    sender: tuple[str, int],
    history_length: int,
) -> Command:
    """Return the command that publishes messages to a room; repeating it changes nothing.

    Each message is its ref, its origin, and what `pack` returns. `sender` is the name of a process
    and the number of its batch.
    """
    (process, batch), own = sender, keys.room(room)
    return (
        *("EVALSHA", PUBLISH_SHA, 4, *own[:3], own.sent(process), *room_arguments(history_length)),
        *(batch, keys.news, room, SENT_SECONDS, ROOM_BYTES, NOTICE_BYTES),
        *(part for message in messages for part in message),
    )


def read_positions(answer: Any, count: int) -> list[tuple[str, int]]:
    """Return epoch and offset of each message in the answer to a batch.

    Raises `ResponseError` if the answer is one, or if Redis remembers another batch under its
    number.
    """
    if isinstance(answer, ResponseError):
        raise answer
    pairs = zip(answer[3::2], answer[4::2], strict=False)
    positions = [(epoch.decode(errors="replace"), offset) for epoch, offset in pairs]
    if len(positions) == count and all(offset.isdigit() for _, offset in positions):
        return [(epoch, int(offset)) for epoch, offset in positions]
    raise ResponseError("another program has changed the keys of the room")


class Publisher:
    """Sends messages to Redis in batches.

    A batch is resent until Redis confirms it. Its number stays the same, so that Redis recognizes
    it if only the answer was lost. When Redis is down for `PATIENCE` seconds, waiting messages are
    rejected, and new ones until it is back.
    """

    def __init__(self, shared: Shared, stored: StoredBytes) -> None:
        self._shared = shared
        self._stored = stored
        self._number = 0
        self._batch: dict[str, list[Unconfirmed]] = {}  # by room; sent, and perhaps published
        self._known_until = 0.0  # loop time up to which Redis remembers the batch
        self._queue: deque[Unconfirmed] = deque()
        self._bytes = 0
        self._has_some = asyncio.Event()
        self._giving_up: asyncio.TimerHandle | None = None
        self._is_given_up = False

    async def run(self) -> None:
        """Publish until cancelled; then reject all waiting messages."""
        try:
            await keep_connected(self._shared, "publish", self._work, self._start_giving_up)
        finally:
            self._stop_giving_up()
            self._give_up()

    def publish(
        self,
        room: str,
        cursor: Cursor | None,
        message: tuple[bytes, bytes],
        origin: str,
        ref: str,
        address: str,
    ) -> asyncio.Future[str]:
        """Queue what `pack` returned, and return a future of its id.

        Raises `BrokerUnavailable`, as the future may.
        """
        is_full = len(self._queue) >= MAX_WAITING or self._bytes >= MAX_WAITING_BYTES
        if self._is_given_up or is_full:
            raise BrokerUnavailable
        published = asyncio.get_running_loop().create_future()
        texts = origin.encode(), ref.encode()  # if that fails, it is the publisher's error alone
        self._queue.append(Unconfirmed(room, cursor, *message, *texts, address, published))
        if cursor is not None:
            cursor.unconfirmed += 1
        self._bytes += len(message[1])
        self._has_some.set()
        return published

    async def _work(self, link: Link) -> None:
        while True:
            if not self._batch:
                self._shared.health.works("publish")
                self._stop_giving_up()
                await self._has_some.wait()
                self._fill()
            if asyncio.get_running_loop().time() < self._known_until:
                await self._send(link)
            else:  # this process was paused; resending could publish a message twice
                self._refuse_batch()

    def _fill(self) -> None:
        """Take the next batch from the queue; nothing is added to it until all is settled."""
        size = 0
        for _ in range(min(len(self._queue), MAX_BATCH)):
            size += len(self._queue[0].packed)
            if self._batch and size > MAX_BATCH_BYTES:
                break
            message = self._queue.popleft()
            self._batch.setdefault(message.room, []).append(message)
            self._bytes -= len(message.packed)
        self._number += 1
        self._known_until = asyncio.get_running_loop().time() + KNOWN_SECONDS
        if not self._queue:
            self._has_some.clear()

    async def _send(self, link: Link) -> None:
        """Send the batch, with one command for each room."""
        batch, shared = self._batch, self._shared
        sender, length = (shared.process, self._number), shared.history_length
        commands = []
        for room, messages in batch.items():
            parts = ((each.ref, each.origin, each.kind, each.packed) for each in messages)
            commands.append(publish_command(shared.keys, room, parts, sender, length))
        answers = await link.pipeline(commands)
        for (room, messages), answer in zip([*batch.items()], answers, strict=True):
            if not isinstance(answer, MOVED_ON):
                self._settle(room, messages, answer)
                batch.pop(room, None)
        raise_moved_on(answers)

    def _settle(self, room: str, messages: list[Unconfirmed], answer: Any) -> None:
        try:
            positions = read_positions(answer, len(messages))
            grown, is_repaired = int(answer[1]), int(answer[2])
        except (ResponseError, ValueError) as error:
            self._shared.health.refuses("Redis refused a message", room, error)
            for message in messages:
                message.settle(None)
            return
        if is_repaired:
            self._shared.health.breaks(room, CHANGED_KEYS)
        size = sum(len(message.packed) for message in messages)
        for message, position in zip(messages, positions, strict=True):
            self._stored.add(message.address, grown * len(message.packed) // size)
            message.settle(position)

    def _start_giving_up(self) -> None:
        if self._giving_up is None:
            loop = asyncio.get_running_loop()
            self._giving_up = loop.call_later(PATIENCE, self._give_up)

    def _stop_giving_up(self) -> None:
        self._is_given_up = False
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _give_up(self) -> None:
        """Reject all waiting messages, and new ones until Redis is back."""
        self._is_given_up = True
        self._refuse_batch()
        while self._queue:
            self._queue.popleft().settle(None)
        self._bytes = 0
        self._has_some.clear()

    def _refuse_batch(self) -> None:
        for messages in self._batch.values():
            for message in messages:
                message.settle(None)
        self._batch = {}
