"""A timeout for clients that stop reading."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress

WRITE_SECONDS = 10.0
"""Seconds after which a client that has read nothing is dropped."""
CHECKS = 10
"""Number of checks in that time."""


class WriteDeadline:
    """Calls `on_expiry` when the client has read none of the unsent data for `WRITE_SECONDS`.

    A slow client that keeps reading is not affected.
    """

    def __init__(self, transport: asyncio.Transport, on_expiry: Callable[[], None]) -> None:
        self._transport = transport
        self._on_expiry = on_expiry
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._checks_without_progress = 0

    def start(self) -> None:
        """Start checking, if not started."""
        if self._timer is None:
            self.reset()
            self._schedule()

    def stop(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def reset(self) -> None:
        """Restart the timeout, since the client has read something."""
        self._checks_without_progress = 0

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(WRITE_SECONDS / CHECKS, self._check)

    def _check(self) -> None:
        before, self._unread = self._unread, unread_bytes(self._transport)
        self._checks_without_progress += 1
        if self._unread < before or not self._transport.get_write_buffer_size():
            self.reset()
        if self._checks_without_progress < CHECKS:
            self._schedule()
        else:
            self._timer = None
            self._on_expiry()


def unread_bytes(transport: asyncio.Transport) -> int:
    """Return the bytes that the client has not read, in the transport and in the kernel.

    The kernel accepts more from the transport only when a third of its buffer is free, up to a
    megabyte, so the transport alone can't tell a slow reader from one that has stopped.
    """
    waiting = transport.get_write_buffer_size()
    with suppress(ImportError, OSError):  # not on Windows
        import fcntl
        import termios

        queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"0000")
        waiting += int.from_bytes(queued, sys.byteorder)
    return waiting
