"""Events on their way to members, encoded once for each format."""

from itertools import accumulate

from ..server.fast_path import server_frame
from .events import PresenceEvent, PresentEvent, RoomEvent
from .formats import EVENTS, RoomFormat

AFTER_ALL = 2**63
"""The offset of an event after which offsets may begin again."""


class EncodedEvent:
    """An event that is to be sent, and its frame in each format that is read.

    `sender` is the id of the subscriber that it came from, and `offset` the position of a
    message in its room; a gap has `AFTER_ALL`, and other events have none.
    """

    __slots__ = ("_event", "_frames", "offset", "room", "sender")

    def __init__(self, event: RoomEvent, sender: str = "", offset: int = 0) -> None:
        self.room = event.room
        self.sender = sender
        self.offset = offset
        self._event = event
        self._frames: dict[RoomFormat, bytes] = {}

    @property
    def is_presence(self) -> bool:
        """Whether it tells of members, and not of messages."""
        return isinstance(self._event, PresenceEvent | PresentEvent)

    def frame(self, format: RoomFormat) -> bytes:
        """Return the event as a frame of a server; empty where the format doesn't show it."""
        frame = self._frames.get(format)
        if frame is None:
            text = self._encode(format)
            frame = b"" if text is None else server_frame(text, is_text=True)
            self._frames[format] = frame
        return frame

    def __len__(self) -> int:
        """Return the size of its longest form, in bytes."""
        return len(self.frame(EVENTS))

    def _encode(self, format: RoomFormat) -> bytes | None:
        return format.encode(self._event)


class Batch:
    """Events that go out together in one format, and the bytes that all subscribers share."""

    def __init__(self, events: list[EncodedEvent], format: RoomFormat) -> None:
        self.events = events
        self._frames = [event.frame(format) for event in events]
        self._starts = [0, *accumulate(map(len, self._frames))]
        self.data = b"".join(self._frames)
        self.count = sum(map(bool, self._frames))
        self.senders = frozenset([event.sender for event in events])

    def pieces(self, subscriber_id: str, first: int) -> list[memoryview]:
        """Return the bytes from event `first` on, without the subscriber's own events.

        There are as few pieces as possible, and none is a copy.
        """
        bounds = [self._starts[first]]
        for index in range(first, len(self.events)):
            if self.events[index].sender == subscriber_id:
                bounds += self._starts[index : index + 2]
        bounds.append(self._starts[-1])
        data = memoryview(self.data)
        pieces = [data[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
        return [piece for piece in pieces if piece]

    def frames(self, subscriber_id: str, first: int) -> list[bytes]:
        """Return the frames from event `first` on, without the subscriber's own."""
        pairs = zip(self.events[first:], self._frames[first:], strict=True)
        return [frame for event, frame in pairs if frame and event.sender != subscriber_id]
