"""Names of rooms and members, and who may join a room and publish to it."""

from typing import Annotated, Protocol
from unicodedata import normalize

from fastapi import HTTPException
from pydantic import BaseModel, Field

from ..handshake import Identity

MAX_NAME = 64
"""Maximum length of a member's name, in characters."""
MAX_PICTURE = 256
"""Maximum length of the URL of a picture, in characters."""
MAX_ROOM = 260
"""Maximum length of a room's name, in characters: `user:` and the longest subject."""
ROOM_RULE = f"1 to {MAX_ROOM} printable characters, no outer blanks; not . or .."


class Profile(BaseModel):
    """Who a sender is, from the claims `name` and `picture` of its token (OpenID Connect)."""

    name: Annotated[str, Field(examples=["Zoë"])] | None = None
    picture: Annotated[str, Field(examples=["https://example.com/zoe.png"])] | None = None


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


def profile_of(identity: Identity) -> Profile | None:
    """Return what others see of a client besides its subject: valid claims of its token.

    They are `name` and `picture`, an `https:` URL (OpenID Connect Core §5.1).
    """
    name, picture = identity.claims.get("name"), identity.claims.get("picture")
    if not isinstance(name, str) or not name or not _is_visible(name, MAX_NAME):
        name = None
    is_url = isinstance(picture, str) and picture.startswith("https://")
    if not is_url or not _is_visible(picture, MAX_PICTURE):
        picture = None
    return Profile(name=name, picture=picture) if name or picture else None


class InvalidRoom(HTTPException, ValueError):
    """No room can have this name; a route that does not catch it answers 422."""


class RoomPolicy(Protocol):
    """Decides who may join and publish, in an application with tokens."""

    async def may_join(self, identity: Identity, room: str) -> bool:
        """Return whether a client may join a room, and see who is there."""

    async def may_publish(self, identity: Identity, room: str) -> bool:
        """Return whether a client may publish to a room; it need not be a member."""


class RoomAccess:
    """Applies the policy. No policy can let a client into the `user:` room of another subject.

    Without a policy, every room is open and there are no `user:` rooms.
    """

    def __init__(self, policy: RoomPolicy | None) -> None:
        self.policy = policy

    async def may_publish(self, identity: Identity, room: str) -> bool:
        """Return whether a client may publish to an existing room."""
        return self.policy is None or await self.policy.may_publish(identity, room)

    async def check_join(self, identity: Identity, room: str) -> None:
        """Raise a 403 if the client may not join a room and see its members."""
        is_theirs = not is_user_room(room) or room == user_room(identity.subject)
        may_join = is_theirs and self._exists(room)
        if may_join and self.policy is not None:
            may_join = await self.policy.may_join(identity, room)
        if not may_join:
            raise HTTPException(403, "this room is not open to you")

    async def check_publish(self, identity: Identity, room: str) -> None:
        """Raise a 403 if the client may not publish to a room."""
        if not self._exists(room) or not await self.may_publish(identity, room):
            raise HTTPException(403, "you may not publish to this room")

    def ref_key(self, sender: str, ref: str) -> str:
        """Return the key by which a room's history finds a `ref`; it includes the sender.

        Without tokens it is the `ref` alone, since anyone may use any name.
        """
        scope = "" if self.policy is None else sender
        return f"{scope}\n{ref}" if ref else ""

    def check_target(self, room: str) -> None:
        """Raise `InvalidRoom` if no room can have this name."""
        if not is_room(room) or not self._exists(room):
            rule = "only a subject of tokens has its own" if is_room(room) else ROOM_RULE
            raise InvalidRoom(422, f"there is no room {room!r}: {rule}")

    def _exists(self, room: str) -> bool:
        """Return whether there can be such a room: `user:` rooms need tokens."""
        return not is_user_room(room) or (self.policy is not None and room.startswith("user:"))
