"""A connection for what may be asked twice."""

import asyncio
from typing import Any

from ..broker import BrokerUnavailable
from .link import FAILURES, MOVED_ON, Command, Link

PATIENCE = 3.0
"""Seconds to wait for answers."""


class Commands:
    """Asks Redis, for one caller after the other."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._link: Link | None = None
        self._lock = asyncio.Lock()

    async def run(self, *commands: Command) -> list[Any]:
        """Return the answers, of which one may be a `ResponseError`.

        Raises `BrokerUnavailable` if there are none within `PATIENCE` seconds.
        """
        try:
            async with asyncio.timeout(PATIENCE), self._lock:
                return await self._ask_twice(commands)
        except FAILURES:
            raise BrokerUnavailable from None

    async def close(self) -> None:
        """Close the connection."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _ask_twice(self, commands: tuple[Command, ...]) -> list[Any]:
        try:
            return await self._ask(commands)
        except FAILURES:  # it may have been closed while nobody used it
            return await self._ask(commands)

    async def _ask(self, commands: tuple[Command, ...]) -> list[Any]:
        try:
            if self._link is None:
                self._link = Link(self._url)
                await self._link.connect()
            answers = await self._link.pipeline(commands)
            moved = [answer for answer in answers if isinstance(answer, MOVED_ON)]
            if moved:
                raise moved[0]
            return answers
        except BaseException:
            await self.close()
            raise
