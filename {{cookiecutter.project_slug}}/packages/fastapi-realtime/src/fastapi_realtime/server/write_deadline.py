"""A deadline for writing: a client that stops reading is dropped."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress

WRITE_SECONDS = 10.0
"""Seconds after which a client that reads nothing of what waits for it is dropped."""
CHECKS = 10
"""Checks for progress in that time."""


class WriteDeadline:
    """Call `on_expiry` when data has waited for `WRITE_SECONDS` and the client has read none of it.

    A slow client that goes on reading is not dropped.
    """

    def __init__(self, transport: asyncio.Transport, on_expiry: Callable[[], None]) -> None:
        self._transport = transport
        self._on_expiry = on_expiry
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._checks_without_progress = 0

    def start(self) -> None:
        """Start checking, unless that has been done."""
        if self._timer is None:
            self.note_progress()
            self._schedule()

    def stop(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def note_progress(self) -> None:
        """Start to count again: the client has read something."""
        self._checks_without_progress = 0

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(WRITE_SECONDS / CHECKS, self._check)

    def _check(self) -> None:
        before, self._unread = self._unread, unread_bytes(self._transport)
        self._checks_without_progress += 1
        if self._unread < before or not self._transport.get_write_buffer_size():
            self.note_progress()
        if self._checks_without_progress < CHECKS:
            self._schedule()
        else:
            self._timer = None
            self._on_expiry()


def unread_bytes(transport: asyncio.Transport) -> int:
    """Return how many bytes wait for the client, in the transport and in the kernel.

    The kernel takes more from the transport only when a third of its own buffer is free, which
    may be a megabyte, so the transport alone would make a slow reader look like one that stopped.
    """
    waiting = transport.get_write_buffer_size()
    with suppress(ImportError, OSError):  # not on Windows
        import fcntl
        import termios

        queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"0000")
        waiting += int.from_bytes(queued, sys.byteorder)
    return waiting
