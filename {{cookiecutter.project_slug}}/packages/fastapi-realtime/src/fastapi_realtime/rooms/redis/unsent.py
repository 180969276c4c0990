"""Messages on their way to Redis."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from .cursor import Cursor
from .keys import RoomKeys
from .link import Command
from .scripts import KEEP_SECONDS, PUBLISH_SHA, SENT_SECONDS, new_epoch

MAX_BATCH = 256
"""Messages that are sent together. Redis keeps as many numbers, for when an answer is lost."""
LOG_LENGTH = 4096
"""Messages that the log of a room keeps at least, for processes that read slowly."""
LOG_BYTES = 16 * 1024 * 1024
"""Bytes that these messages may take; when they are large, the log keeps fewer."""


@dataclass(slots=True, eq=False)
class Publication:
    """A message that is to be published."""

    ref: bytes
    origin: bytes
    packed: bytes
    number: int = 0
    """Counts the messages of this process, from when it is sent first."""


@dataclass(slots=True, eq=False, kw_only=True)
class Unsent(Publication):
    """A message that Redis has not confirmed."""

    keys: RoomKeys
    cursor: Cursor | None
    """How far the room was read, if it has members here."""
    published: asyncio.Future[str]
    """The id that it gets."""

    def confirm(self, epoch: str, offset: int) -> None:
        """Note that it was published, now or before, and where."""
        if self.cursor is not None:
            self.cursor.confirm(epoch, offset)
            self.cursor = None  # counted once, also if it was refused meanwhile
        if not self.published.done():  # else its publisher has gone
            self.published.set_result(f"{epoch}-{offset}")

    def refuse(self, error: Exception) -> None:
        """Note that it was not published, or that this is not known."""
        if self.cursor is not None:
            self.cursor.unconfirmed -= 1
            self.cursor = None
        if not self.published.done():
            self.published.set_exception(error)


def publish_command(
    keys: RoomKeys, publications: Sequence[Publication], process: str, history_length: int
) -> Command:
    """Return the command that publishes messages to a room, once however often it is sent."""
    lengths = max(LOG_LENGTH, history_length), LOG_BYTES, history_length
    command: list[str | bytes | int] = [
        *("EVALSHA", PUBLISH_SHA, 4, keys.head, keys.log, keys.refs, keys.sent(process)),
        *(process, MAX_BATCH, new_epoch(), *lengths, KEEP_SECONDS, SENT_SECONDS),
    ]
    for each in publications:
        command += (each.number, each.ref, each.origin, each.packed)
    return command
