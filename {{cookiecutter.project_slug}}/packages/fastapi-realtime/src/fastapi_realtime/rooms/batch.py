"""Encoded events: each is encoded once per format, and shared by all members."""

from itertools import accumulate

from ..server.fast_path import server_frame
from .events import PresenceEvent, PresentEvent, RoomEvent
from .formats import EVENTS, RoomFormat

AFTER_ALL = 2**63
"""The offset of a `gap`. It is above all others, since lower offsets may follow a gap."""


class EncodedEvent:
    """An event and its frames, one for each format in use.

    `sender` is the id of the subscriber that sent it. `offset` is that of a message in its room;
    a gap has `AFTER_ALL`, other events 0.
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
        """Whether it is about members: `joined`, `left` or `present`."""
        return isinstance(self._event, PresenceEvent | PresentEvent)

    def frame(self, format: RoomFormat) -> bytes:
        """Return the event as a server frame; empty if the format leaves it out."""
        frame = self._frames.get(format)
        if frame is None:
            text = self._encode(format)
            frame = b"" if text is None else server_frame(text, is_text=True)
            self._frames[format] = frame
        return frame

    def __len__(self) -> int:
        """Return the size of its JSON frame, in bytes; no other form is longer."""
        return len(self.frame(EVENTS))

    def _encode(self, format: RoomFormat) -> bytes | None:
        return format.encode(self._event)


class Batch:
    """Events in one format that are sent together; all subscribers share the bytes."""

    def __init__(self, events: list[EncodedEvent], format: RoomFormat) -> None:
        self.events = events
        self._frames = [event.frame(format) for event in events]
        self._starts = [0, *accumulate(map(len, self._frames))]
        self.data = b"".join(self._frames)
        self.count = sum(map(bool, self._frames))
        self.senders = frozenset([event.sender for event in events])

    def pieces(self, subscriber_id: str, first: int) -> list[memoryview]:
        """Return the bytes from event `first` on, without the subscriber's own events.

        The pieces are views of the shared bytes, as few as possible.
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
        """Return the frames from event `first` on, without the subscriber's own events."""
        pairs = zip(self.events[first:], self._frames[first:], strict=True)
        return [frame for event, frame in pairs if frame and event.sender != subscriber_id]
