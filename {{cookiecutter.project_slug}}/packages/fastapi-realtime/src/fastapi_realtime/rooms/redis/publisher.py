"""Publishing to Redis: in order, over one connection, and once, also across reconnects."""

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
"""Seconds that Redis may be down before waiting messages are rejected."""
MAX_WAITING = 10_000
"""Messages above this many in the queue are rejected at once."""
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""The same in bytes."""


class Publisher:
    """Sends messages to Redis in batches.

    A message is resent until Redis confirms it. Its number stays the same, so that Redis
    recognizes it if only the answer was lost. When Redis is down for `PATIENCE` seconds, waiting
    messages are rejected, and new ones until it is back.
    """

    def __init__(self, url: str, process: str, history_length: int, health: Health) -> None:
        """`process` is the name of this process."""
        self._url = url
        self._process = process
        self._health = health
        self._history_length = history_length
        self._numbers = count(1)
        self._batch: list[Unsent] = []  # sent, perhaps published, not confirmed
        self._known_until = 0.0  # loop time up to which Redis remembers the batch's numbers
        self._queue: deque[Unsent] = deque()
        self._bytes = 0
        self._has_some = asyncio.Event()
        self._giving_up: asyncio.TimerHandle | None = None
        self._is_given_up = False

    async def run(self) -> None:
        """Publish until cancelled; then reject all waiting messages."""
        try:
            await keep_connected(
                self._url, "publish", self._health, self._work, self._start_giving_up
            )
        finally:
            self._stop_giving_up()
            self._give_up()

    def publish(
        self, keys: RoomKeys, cursor: Cursor | None, packed: bytes, origin: str, ref: str
    ) -> asyncio.Future[str]:
        """Queue a message, and return a future of its id.

        Raises `BrokerUnavailable`, as the future may.
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
                self._stop_giving_up()
                await self._has_some.wait()
                self._fill()
            if asyncio.get_running_loop().time() < self._known_until:
                await self._send(link)
            else:  # this process was paused; resending could publish a message twice
                self._refuse_batch()

    def _fill(self) -> None:
        """Take the next batch from the queue.

        Nothing is added to it until all of it is settled: its numbers stay consecutive, and
        Redis has a slot for each.
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
        """Send the batch, with one command for each room."""
        rooms: dict[str, list[Unsent]] = {}
        for unsent in self._batch:
            rooms.setdefault(unsent.keys.head, []).append(unsent)
        commands = [
            publish_command(some[0].keys, some, self._process, self._history_length)
            for some in rooms.values()
        ]
        answers = await link.pipeline(commands)
        again = [answer for answer in answers if isinstance(answer, MOVED_ON)]
        is_refused = not self._batch  # by `_give_up`, while waiting for the answers
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
        for unsent in self._queue:
            unsent.refuse(BrokerUnavailable())
        self._bytes = 0
        self._queue.clear()
        self._has_some.clear()

    def _refuse_batch(self) -> None:
        for unsent in self._batch:
            unsent.refuse(BrokerUnavailable())
        self._batch = []
