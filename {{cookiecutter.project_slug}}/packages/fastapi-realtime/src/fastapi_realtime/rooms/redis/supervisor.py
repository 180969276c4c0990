"""Keeps a connection to Redis: whatever happens to one, there is a next one."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator

from .health import Health
from .link import FAILURES, Link, explain

logger = logging.getLogger(__name__)

FIRST_DELAY, LAST_DELAY = 0.1, 10.0
"""Seconds between two attempts to connect, at first and in the end."""


async def keep_connected(
    url: str,
    part: str,
    health: Health,
    work: Callable[[Link], Awaitable[None]],
    note_failure: Callable[[], None] = lambda: None,
) -> None:
    """Connect, and do some work with it; whenever that fails, begin again.

    The work says when it works; until it has done so, attempts come later and later.
    """
    delays = backoff()
    while True:
        link = Link(url)
        try:
            await link.connect()
            await work(link)
        except Exception as error:
            delays = backoff() if health.is_working(part) else delays
            note(part, error, health)
        finally:
            await link.close()
        note_failure()
        await asyncio.sleep(next(delays))


def note(part: str, error: Exception, health: Health) -> None:
    """Log why a connection failed, if that is news."""
    health.fails(part, explain(error))
    if not isinstance(error, FAILURES):  # a bug, or something in Redis that isn't ours
        logger.error("failed to %s", part, exc_info=error)


def backoff() -> Iterator[float]:
    """Yield how long to wait before each attempt, so that not all processes come at once."""
    delay = FIRST_DELAY
    while True:
        yield random.uniform(delay / 2, delay)
        delay = min(2 * delay, LAST_DELAY)
