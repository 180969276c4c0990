"""Publishing: in order, through one connection, and once, also when a connection fails."""

import asyncio
from collections import deque
from itertools import count
from typing import Any

from redis.exceptions import ResponseError

from ..broker import BrokerUnavailable
from .cursor import Cursor
from .health import Health
from .keys import RoomKeys
from .link import MOVED_ON, Link, explain
from .scripts import SENT_SECONDS
from .supervisor import keep_connected
from .unsent import MAX_BATCH, Unsent, publish_command

PATIENCE = 3.0
"""Seconds that Redis may be away before publishers are told."""
MAX_WAITING = 10_000
"""Messages that may wait for Redis; publishers of more are told at once."""
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Bytes that may wait for Redis."""


class Publisher:
    """Sends messages to Redis: what comes in one turn of the event loop, or while it is busy, together.

    A message is sent until Redis has confirmed it, and under the same number, by which Redis
    knows it if only the answer was lost. When Redis is away for `PATIENCE` seconds, all that
    wait are refused, and then all that come.
    """

    def __init__(self, url: str, process: str, history_length: int, health: Health) -> None:
        """`process` names this one among all that use this Redis."""
        self._url = url
        self._process = process
        self._health = health
        self._history_length = history_length
        self._numbers = count(1)
        self._batch: list[Unsent] = []  # sent, and perhaps published
        self._known_until = 0.0  # when Redis may forget its numbers
        self._queue: deque[Unsent] = deque()
        self._bytes = 0
        self._has_some = asyncio.Event()
        self._giving_up: asyncio.TimerHandle | None = None
        self._is_given_up = False

    async def run(self) -> None:
        """Publish until this is cancelled; then refuse what is left."""
        try:
            await keep_connected(
                self._url, "publish", self._health, self._work, self._lose_patience
            )
        finally:
            self._stop_waiting()
            self._give_up()

    def publish(
        self, keys: RoomKeys, cursor: Cursor | None, packed: bytes, origin: str, ref: str
    ) -> asyncio.Future[str]:
        """Publish a message after those before, and return a future of its id.

        Raises `BrokerUnavailable`; the future may fail with it, too.
        """
        is_full = len(self._queue) >= MAX_WAITING or self._bytes >= MAX_WAITING_BYTES
        if self._is_given_up or is_full:
            raise BrokerUnavailable
        published = asyncio.get_running_loop().create_future()
        texts = ref.encode(), origin.encode()
        self._queue.append(Unsent(*texts, packed, keys=keys, cursor=cursor, published=published))
        if cursor is not None:
            cursor.unconfirmed += 1
        self._bytes += len(packed)
        self._has_some.set()
        return published

    async def _work(self, link: Link) -> None:
        while True:
            if not self._batch:
                self._health.works("publish")
                self._stop_waiting()
                await self._has_some.wait()
                self._fill()
            if asyncio.get_running_loop().time() < self._known_until:
                await self._send(link)
            else:  # this process stood still
                self._refuse_batch()

    def _fill(self) -> None:
        """Take the next batch. It gets no more before all of it is settled.

        So its numbers follow each other, and Redis has a slot for each.
        """
        size = min(len(self._queue), MAX_BATCH)
        self._batch = [self._queue.popleft() for _ in range(size)]
        for unsent in self._batch:
            unsent.number = next(self._numbers)
            self._bytes -= len(unsent.packed)
        self._known_until = asyncio.get_running_loop().time() + SENT_SECONDS / 2
        if not self._queue:
            self._has_some.clear()

    async def _send(self, link: Link) -> None:
        """Send the batch: the messages of a room together, so that they are read together."""
        rooms: dict[str, list[Unsent]] = {}
        for unsent in self._batch:
            rooms.setdefault(unsent.keys.head, []).append(unsent)
        commands = [
            publish_command(some[0].keys, some, self._process, self._history_length)
            for some in rooms.values()
        ]
        answers = await link.pipeline(commands)
        again = [answer for answer in answers if isinstance(answer, MOVED_ON)]
        is_refused = not self._batch  # meanwhile
        self._batch = []
        for some, answer in zip(rooms.values(), answers, strict=True):
            if not isinstance(answer, MOVED_ON):
                self._settle(some, answer)
            elif not is_refused:
                self._batch += some
        if again:
            raise again[0]

    def _settle(self, some: list[Unsent], answer: Any) -> None:
        if isinstance(answer, ResponseError):
            self._health.refuses(explain(answer))
            for unsent in some:
                unsent.refuse(BrokerUnavailable())
            return
        for unsent, epoch, offset in zip(some, answer[::2], answer[1::2], strict=True):
            unsent.confirm(epoch.decode(), int(offset))

    def _lose_patience(self) -> None:
        if self._giving_up is None:
            loop = asyncio.get_running_loop()
            self._giving_up = loop.call_later(PATIENCE, self._give_up)

    def _stop_waiting(self) -> None:
        self._is_given_up = False
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _give_up(self) -> None:
        """Refuse all that wait, and from now on all that come, until Redis is back."""
        self._is_given_up = True
        self._refuse_batch()
        for unsent in self._queue:
            unsent.refuse(BrokerUnavailable())
        self._bytes = 0
        self._queue.clear()
        self._has_some.clear()

    def _refuse_batch(self) -> None:
        for unsent in self._batch:
            unsent.refuse(BrokerUnavailable())
        self._batch = []
