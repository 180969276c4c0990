"""Messages that Redis has not confirmed, and the command to publish them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from .cursor import Cursor
from .keys import RoomKeys
from .link import Command
from .scripts import KEEP_SECONDS, PUBLISH_SHA, SENT_SECONDS, new_epoch

MAX_BATCH = 256
"""Maximum messages in one batch. Redis remembers as many numbers of each process."""
LOG_LENGTH = 4096
"""Messages kept in the log of a room, for slow readers; more if `history_length` is higher."""
LOG_BYTES = 16 * 1024 * 1024
"""Maximum bytes of these messages; a log of large messages is shorter."""


@dataclass(slots=True, eq=False)
class Publication:
    """A message to publish."""

    ref: bytes
    origin: bytes
    packed: bytes
    number: int = 0
    """The number of the message in this process; 0 until it is first sent."""


@dataclass(slots=True, eq=False, kw_only=True)
class Unsent(Publication):
    """A message that Redis has not confirmed."""

    keys: RoomKeys
    cursor: Cursor | None
    """The cursor of the room, if it has members in this process."""
    published: asyncio.Future[str]
    """A future of its id."""

    def confirm(self, epoch: str, offset: int) -> None:
        """Record that it was published, now or earlier, at this position."""
        if self.cursor is not None:
            self.cursor.confirm(epoch, offset)
            self.cursor = None  # so that it is not counted again
        if not self.published.done():  # else its publisher no longer waits
            self.published.set_result(f"{epoch}-{offset}")

    def refuse(self, error: Exception) -> None:
        """Record that it was not published, or that the outcome is unknown."""
        if self.cursor is not None:
            self.cursor.unconfirmed -= 1
            self.cursor = None
        if not self.published.done():
            self.published.set_exception(error)


def publish_command(
    keys: RoomKeys, publications: Sequence[Publication], process: str, history_length: int
) -> Command:
    """Return the command that publishes messages to a room; repeating it changes nothing."""
    lengths = max(LOG_LENGTH, history_length), LOG_BYTES, history_length
    command: list[str | bytes | int] = [
        *("EVALSHA", PUBLISH_SHA, 4, keys.head, keys.log, keys.refs, keys.sent(process)),
        *(process, MAX_BATCH, new_epoch(), *lengths, KEEP_SECONDS, SENT_SECONDS),
    ]
    for each in publications:
        command += (each.number, each.ref, each.origin, each.packed)
    return command
