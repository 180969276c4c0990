"""Connections to Redis that do less than they should."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from ..redis_server import RedisServer


class NarrowLink:
    """A connection on which an answer stalls that is longer than a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit
        self._has_space = asyncio.Event()

    async def pass_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass on what a client sends; answers to it have the whole limit."""
        try:
            while data := await reader.read(65_536):
                self._left = self._limit
                self._has_space.set()
                writer.write(data)
        finally:
            writer.transport.abort()

    async def pass_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass on what Redis sends, up to the limit."""
        try:
            while data := await reader.read(8192):
                while self._left < len(data):
                    self._has_space.clear()
                    await self._has_space.wait()
                self._left -= len(data)
                writer.write(data)
        finally:
            writer.transport.abort()


@asynccontextmanager
async def narrow_link(server: RedisServer, limit: int) -> AsyncGenerator[str]:
    """Yield a URL of Redis, where an answer of more bytes than `limit` stalls."""
    path = server.url.removeprefix("unix://")
    tasks: list[asyncio.Task[None] | None] = []

    async def serve(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        from_redis, to_redis = await asyncio.open_unix_connection(path)
        link = NarrowLink(limit)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(
                link.pass_requests(from_client, to_redis),
                link.pass_answers(from_redis, to_client),
                return_exceptions=True,
            )
        for writer in (to_redis, to_client):
            with suppress(OSError):
                await writer.wait_closed()

    async with await asyncio.start_unix_server(serve, f"{path}.narrow"):
        yield f"{server.url}.narrow"
        running = [*filter(None, tasks)]
        for task in running:
            task.cancel()
        await asyncio.wait(running)
