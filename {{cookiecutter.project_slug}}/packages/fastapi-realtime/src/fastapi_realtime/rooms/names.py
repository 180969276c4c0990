"""Names of rooms and members."""

from unicodedata import normalize

from fastapi import HTTPException

MAX_NAME = 64
"""Maximum length of a member's name, in characters."""
MAX_ROOM = 260
"""Maximum length of a room's name, in characters: `user:` and the longest subject."""


ROOM_RULE = f"1 to {MAX_ROOM} printable characters, no outer blanks; not . or .."


def check_name(name: str) -> str:
    """Return a member's name, or raise a 422 if it is invalid."""
    if not _is_visible(name, MAX_NAME):
        raise HTTPException(422, f"name: at most {MAX_NAME} printable characters, no outer blanks")
    return name


def check_room(name: str) -> str:
    """Return a room's name, or raise a 422 if it is invalid."""
    if not is_room(name):
        raise HTTPException(422, f"room: {ROOM_RULE}")
    return name


def is_room(name: str) -> bool:
    """Return whether this is a valid name for a room.

    `.` and `..` are not: browsers remove them from URLs, even percent-encoded.
    """
    return name not in ("", ".", "..") and _is_visible(name, MAX_ROOM)


def user_room(subject: str) -> str:
    """Return the name of a subject's own room, which nobody else may join."""
    return f"user:{subject}"


def is_user_room(name: str) -> bool:
    """Return whether a name is that of a `user:` room, or could be mistaken for one."""
    return normalize("NFKC", name).casefold().lstrip().startswith("user:")


def _is_visible(name: str, length: int) -> bool:
    # All bytes of a URL that are not UTF-8 become U+FFFD, so different names would be the same.
    is_readable = name.isprintable() and "\ufffd" not in name and name == name.strip()
    return len(name) <= length and is_readable
