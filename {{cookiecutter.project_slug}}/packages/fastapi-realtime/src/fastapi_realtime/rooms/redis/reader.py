"""Reading from Redis: one connection for all rooms with members in this process."""

import asyncio
from typing import Any

from redis.exceptions import ResponseError

from ..hub import Hub
from .cursor import Cursor
from .health import Health
from .link import MOVED_ON, Link
from .members import Members
from .messages import RawEntry, offset_of, read_entry
from .packed import pack_read
from .rosters import Rosters
from .supervisor import keep_connected
from .waker import Waker

CHECK_SECONDS = 1.0
"""Seconds between two comparisons of idle rooms with Redis; a read blocks no longer."""
ROOMS_AT_ONCE = 200
"""Rooms in one comparison; more rooms take turns."""
ROUND_SECONDS = 5.0
"""Seconds until every idle room has been compared; `ROOMS_AT_ONCE` grows for it."""
BUSY_CHECK_SECONDS = 60.0
"""Seconds between two comparisons of a busy room, which keep its keys from expiring."""
READ_COUNT = 256
"""Maximum messages of a room in one read."""
READ_TOTAL = 2048
"""Maximum messages of all rooms in one read, but at least one of each room."""


class Reader:
    """Passes the messages of rooms to the hub: each once, in order.

    Comparisons and reads use one connection in turn, so they never overlap. Passing messages on
    never waits: a room with too much pending is left out of the next read, and delays no other.
    """

    def __init__(
        self,
        url: str,
        process: str,
        hub: Hub,
        members: Members,
        waker: Waker,
        rosters: Rosters,
        health: Health,
    ) -> None:
        """`process` is the name of this process."""
        self._url = url
        self._process = process
        self._hub = hub
        self._members = members
        self._waker = waker
        self._rosters = rosters
        self._health = health
        self._check_at = 0.0
        self._turns: list[Cursor] = []

    async def run(self) -> None:
        """Read until cancelled."""
        try:
            note_failure = self._members.note_attempt
            await keep_connected(self._url, "read", self._health, self._work, note_failure)
        finally:
            self._waker.close()

    async def _work(self, link: Link) -> None:
        self._waker.client_id = await link.request("CLIENT", "ID")
        self._members.to_compare.update([*self._members])
        while True:
            await self._check(link)
            self._health.works("read")
            await self._read(link)
            self._members.note_read()

    async def _check(self, link: Link) -> None:
        """Compare rooms with Redis: those in `to_compare` at once, idle ones periodically."""
        cursors = {*self._members.to_compare}
        self._members.to_compare.clear()
        now = asyncio.get_running_loop().time()
        if now >= self._check_at:
            self._check_at = now + CHECK_SECONDS
            cursors.update(self._due(now))
        if cursors:
            commands = [cursor.compare_command(self._process) for cursor in cursors]
            answers = await link.pipeline(commands)
            for cursor, answer in zip(cursors, answers, strict=True):
                self._apply_comparison(cursor, answer)

    def _due(self, now: float) -> list[Cursor]:
        """Return the idle rooms whose turn it is; every room has one in `ROUND_SECONDS`."""
        self._turns = self._turns or [*self._members]
        count = max(ROOMS_AT_ONCE, len(self._members) * CHECK_SECONDS // ROUND_SECONDS)
        turn, self._turns = self._turns[: int(count)], self._turns[int(count) :]
        due = [each for each in turn if now >= each.compare_at or not each.is_read]
        for cursor in turn:
            cursor.is_read = False
        for cursor in due:
            cursor.compare_at = now + BUSY_CHECK_SECONDS
        return [cursor for cursor in due if self._members.get(cursor.room) is cursor]

    def _apply_comparison(self, cursor: Cursor, answer: Any) -> None:
        if isinstance(answer, MOVED_ON):
            raise answer
        cursor.is_broken = isinstance(answer, ResponseError)
        if cursor.is_broken:
            return
        self._rosters.note_token(cursor.room, answer[5].decode())
        if gap := cursor.apply_comparison(answer):
            self._hub.deliver(gap)

    async def _read(self, link: Link) -> None:
        full = self._hub.full_rooms()
        known = [each for each in self._members if each.epoch and not each.is_broken]
        cursors = [cursor for cursor in known if cursor.room not in full] if full else known
        seconds = self._check_at - asyncio.get_running_loop().time()
        if len(cursors) < len(known) or self._members.to_compare:
            seconds = 0
        if cursors:
            await self._read_rooms(link, cursors, seconds)
        elif seconds > 0:
            await self._waker.sleep(seconds)
        else:
            await asyncio.sleep(0)  # let the hub fan out what is pending

    async def _read_rooms(self, link: Link, cursors: list[Cursor], seconds: float) -> None:
        """Read the next messages of some rooms; block for up to some seconds if there are none."""
        wait = max(1, int(1000 * seconds)) if seconds > 0 else 0
        logs = [cursor.packed_log for cursor in cursors]
        count = max(1, min(READ_COUNT, READ_TOTAL // len(cursors)))
        packed = pack_read(count, wait, logs, [cursor.offset for cursor in cursors])
        self._waker.is_blocked = wait > 0
        try:
            answer = await link.request_packed(packed)
        finally:
            self._waker.is_blocked = False
        for log, entries in answer or ():
            cursor = self._members.of_log(log)
            # If the room was left and joined again meanwhile, its new cursor has no position yet.
            if cursor is not None and cursor.epoch:
                self._hand_over(cursor, entries)

    def _hand_over(self, cursor: Cursor, entries: list[RawEntry]) -> None:
        for raw in entries:
            entry = read_entry(raw)
            if entry is None or entry.epoch != cursor.epoch:
                cursor.foreign_offset = offset_of(raw)
                self._members.to_compare.add(cursor)
                return
            for event in cursor.take(entry):
                self._hub.deliver(event)
