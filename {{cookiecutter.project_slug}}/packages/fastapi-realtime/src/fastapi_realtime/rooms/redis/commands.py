"""A connection for commands that can safely be repeated."""

import asyncio
from typing import Any

from ..broker import BrokerUnavailable
from .link import FAILURES, MOVED_ON, Command, Link

PATIENCE = 3.0
"""Seconds to wait for all answers."""


class Commands:
    """Runs commands, for one caller at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._link: Link | None = None
        self._lock = asyncio.Lock()

    async def run(self, *commands: Command) -> list[Any]:
        """Run commands and return the answers; any of them may be a `ResponseError`.

        Raises `BrokerUnavailable` if they do not arrive within `PATIENCE` seconds.
        """
        try:
            async with asyncio.timeout(PATIENCE), self._lock:
                return await self._run_with_retry(commands)
        except FAILURES:
            raise BrokerUnavailable from None

    async def close(self) -> None:
        """Close the connection."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _run_with_retry(self, commands: tuple[Command, ...]) -> list[Any]:
        try:
            return await self._run_once(commands)
        except FAILURES:  # the server may have closed the idle connection
            return await self._run_once(commands)

    async def _run_once(self, commands: tuple[Command, ...]) -> list[Any]:
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
