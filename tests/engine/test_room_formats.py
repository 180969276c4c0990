"""The formats of rooms, and encoding once for each."""

import json
from dataclasses import asdict, replace

import pytest
from fastapi_realtime.messages import ErrorCode
from fastapi_realtime.rooms.events import (
    EVENTS,
    TEXT,
    Batch,
    EncodedEvent,
    MessageEvent,
    PresenceEvent,
    RoomEvent,
    TextFormat,
)

MESSAGE = MessageEvent(id="a-1", room="tea", sender="zoe", data={"sugar": 2})
JOINED = PresenceEvent(type="joined", room="tea", sender="zoe", connection="c1")


def test_members_that_read_text_see_messages_alone() -> None:
    assert TEXT.encode(MESSAGE) == b'New message: {"sugar":2}'
    assert TEXT.encode(replace(MESSAGE, data="Hi")) == b"New message: Hi"
    assert TEXT.encode(JOINED) is None


def test_members_that_read_events_see_all_of_them() -> None:
    assert json.loads(EVENTS.encode(MESSAGE) or b"") == asdict(MESSAGE)
    assert json.loads(EVENTS.encode(JOINED) or b"") == JOINED.model_dump(exclude_none=True)


def test_errors_have_the_same_fields_in_both() -> None:
    text = json.loads(TEXT.reject("{}", ErrorCode.INVALID_SHAPE, "data.price"))
    event = json.loads(EVENTS.reject("{}", ErrorCode.INVALID_SHAPE, "data.price"))
    assert event == {"type": "error", **text["error"]}
    assert json.loads(EVENTS.error("my_own", "Mine.", "r1")) == {
        "type": "error",
        "code": "my_own",
        "detail": "Mine.",
        "ref": "r1",
    }


@pytest.mark.parametrize(
    ("message", "ref"),
    [
        ('{"ref":"r1"}', "r1"),
        (b'{"ref":"r1"}', "r1"),
        ('{"ref":1}', None),
        ('["ref"]', None),
        ('{"ref":', None),
        (b"\xff", None),
        (json.dumps({"ref": "r" * 256}), None),
    ],
)
def test_an_error_repeats_the_ref_of_its_message_where_that_has_one(
    message: str | bytes, ref: str | None
) -> None:
    error = json.loads(EVENTS.reject(message, ErrorCode.INVALID_SHAPE))
    assert error.get("ref") == ref


def test_an_event_is_encoded_once_for_each_format() -> None:
    calls: list[RoomEvent] = []

    class CountingFormat(TextFormat):
        def encode(self, event: RoomEvent) -> bytes | None:
            calls.append(event)
            return super().encode(event)

    format = CountingFormat()
    encoded = EncodedEvent(MESSAGE)
    first, second = Batch([encoded], format), Batch([encoded], format)
    assert first.data == second.data == encoded.frame(format)
    assert calls == [MESSAGE]
