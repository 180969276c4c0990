"""Keeps a connection to Redis: reconnects after every failure, with backoff."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator

from .health import Health
from .link import FAILURES, Link, explain

logger = logging.getLogger(__name__)

FIRST_DELAY, LAST_DELAY = 0.1, 10.0
"""Seconds between two attempts: the first delay, and the longest."""


async def keep_connected(
    url: str,
    part: str,
    health: Health,
    work: Callable[[Link], Awaitable[None]],
    note_failure: Callable[[], None] = lambda: None,
) -> None:
    """Connect and run `work`; whenever that fails, connect again.

    Delays grow until `work` reports to `health` that `part` works.
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
    """Record why a connection failed; log a traceback for an unexpected exception."""
    health.fails(part, explain(error))
    if not isinstance(error, FAILURES):  # a bug, or another program has overwritten keys
        logger.error("failed to %s", part, exc_info=error)


def backoff() -> Iterator[float]:
    """Yield the delays between attempts, with jitter so that processes don't reconnect together."""
    delay = FIRST_DELAY
    while True:
        yield random.uniform(delay / 2, delay)
        delay = min(2 * delay, LAST_DELAY)
