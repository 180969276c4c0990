"""Connections for the hub, which record what is written to them."""

import asyncio
import json
from collections.abc import Iterable
from secrets import token_hex
from typing import Any, cast

from fastapi_realtime import Connection
from fastapi_realtime.rooms import EVENTS_V1
from fastapi_realtime.rooms.hub import Subscriber


class Client:
    """A connection, and the writes to its transport."""

    def __init__(self, subprotocol: str | None = None) -> None:
        self.id = token_hex(8)
        self.written: list[bytes] = []
        self.pieces: list[memoryview] = []
        self.changed = asyncio.Event()
        self.aborted = asyncio.Event()
        self.unread = 0
        self.bytes_out = 0
        self.messages_out = 0
        self.closed = 0
        self.connection = cast("Connection", self)
        self.transport: Client | None = self
        self.subprotocol = subprotocol
        self.is_open = True

    def close_soon(self, code: int, reason: str) -> None:
        self.closed = code

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.aborted.set()

    @property
    def unsent_bytes(self) -> int:
        return self.unread

    def get_write_buffer_size(self) -> int:
        return self.unread

    def write(self, data: bytes | memoryview) -> None:
        self.pieces.append(memoryview(data))
        self.written.append(bytes(data))
        self.changed.set()

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        for piece in pieces:
            self.write(piece)

    async def received(self, writes: int) -> None:
        """Wait until there have been so many writes."""
        async with asyncio.timeout(10):
            while len(self.written) < writes:
                self.changed.clear()
                await self.changed.wait()


class Listener(Client):
    """A connection under `events.v1` that reads what is written to it, event by event."""

    def __init__(self) -> None:
        super().__init__(EVENTS_V1)
        self.subscriber: Subscriber | None = None
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def write(self, data: bytes | memoryview) -> None:
        rest = bytes(data)
        while rest:
            payload, rest = split_frame(rest)
            self._events.put_nowait(json.loads(payload))

    async def next(self) -> dict[str, Any]:
        """Return the next event."""
        async with asyncio.timeout(20):
            return await self._events.get()

    async def take(self, count: int) -> list[Any]:
        """Return the data of so many messages, which come next; a gap is its type."""
        events = [await self.next() for _ in range(count)]
        return [event.get("data", event["type"]) for event in events]

    def waiting(self) -> int:
        """Return how many events have come and were not read."""
        return self._events.qsize()


def split_frame(data: bytes) -> tuple[bytes, bytes]:
    """Return the payload of the first frame of a server, and what comes after it."""
    length, start = data[1], 2
    if length == 126:
        length, start = int.from_bytes(data[2:4], "big"), 4
    elif length == 127:
        length, start = int.from_bytes(data[2:10], "big"), 10
    return data[start : start + length], data[start + length :]
