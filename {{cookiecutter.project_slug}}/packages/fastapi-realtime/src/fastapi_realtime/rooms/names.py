"""Names of rooms and members, which others see."""

from unicodedata import normalize

from fastapi import HTTPException

MAX_NAME = 64
"""Characters of a member's name."""
MAX_ROOM = 260
"""Characters of a room's name: `user:` and the longest subject."""


def check_name(name: str) -> str:
    """Return a name that others may see, or raise a 422."""
    if not _is_visible(name, MAX_NAME):
        raise HTTPException(422, f"name: at most {MAX_NAME} printable characters, no outer blanks")
    return name


def check_room(name: str) -> str:
    """Return the name of a room, or raise a 422."""
    if not is_room(name):
        raise HTTPException(
            422, f"room: 1 to {MAX_ROOM} printable characters, no outer blanks; not . or .."
        )
    return name


def is_room(name: str) -> bool:
    """Return whether a room may have this name.

    Browsers take `.` and `..` out of URLs, even if they are encoded.
    """
    return name not in ("", ".", "..") and _is_visible(name, MAX_ROOM)


def user_room(subject: str) -> str:
    """Return the room that only the connections of a subject may join."""
    return f"user:{subject}"


def is_user_room(name: str) -> bool:
    """Return whether a name is that of a subject's own room, or looks like one."""
    return normalize("NFKC", name).casefold().lstrip().startswith("user:")


def _is_visible(name: str, length: int) -> bool:
    # Bytes of a URL that are not UTF-8 all become U+FFFD.
    is_readable = name.isprintable() and "\ufffd" not in name and name == name.strip()
    return len(name) <= length and is_readable
