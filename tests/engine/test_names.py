"""Names that others see."""

import pytest
from fastapi import HTTPException
from fastapi_realtime.rooms import (
    check_name,
    check_room,
    user_room,
)


def test_printable_names_are_accepted_up_to_their_length() -> None:
    for name in ("zoe", "Zoë 🚀", "", "n" * 64):
        assert check_name(name) == name
    for room in ("tea", "a/b", "*", "...", user_room("s" * 255)):
        assert check_room(room) == room


@pytest.mark.parametrize(
    "name", ["n" * 65, "a\nb", "a\u202eb", "a\u2066b", "\x00", "\ufffd", " ", "a "]
)
def test_other_names_get_a_422(name: str) -> None:
    with pytest.raises(HTTPException, match="422"):
        check_name(name)


@pytest.mark.parametrize(
    "room", ["", ".", "..", "r" * 261, "a\nb", "a\u202eb", "a\u2066b", "\ufffd", " ", " a"]
)
def test_other_rooms_get_a_422(room: str) -> None:
    with pytest.raises(HTTPException, match="422"):
        check_room(room)
