"""Who may join a room, and who may publish to it."""

from typing import Protocol

from fastapi import HTTPException

from ..handshake import Identity
from .names import ROOM_RULE, is_room, is_user_room, user_room


class InvalidRoom(HTTPException, ValueError):
    """No room can have this name; a route that does not catch it answers 422."""

    def __init__(self, detail: str) -> None:
        super().__init__(422, detail)


class RoomPolicy(Protocol):
    """Decides who may join and publish, in an application with tokens."""

    async def may_join(self, identity: Identity, room: str) -> bool:
        """Return whether a client may join a room, and see who is there."""
        ...

    async def may_publish(self, identity: Identity, room: str) -> bool:
        """Return whether a client may publish to a room; it need not be a member."""
        ...


class RoomAccess:
    """Applies the policy. No policy can let a client into the `user:` room of another subject.

    Without a policy, every room is open and there are no `user:` rooms.
    """

    def __init__(self, policy: RoomPolicy | None) -> None:
        self.policy = policy

    async def may_join(self, identity: Identity, room: str) -> bool:
        """Return whether a client may join a room, and see who is there."""
        if is_user_room(room) and room != user_room(identity.subject):
            return False
        if self.policy is None:
            return self._exists(room)
        return await self.policy.may_join(identity, room)

    async def may_publish(self, identity: Identity, room: str) -> bool:
        """Return whether a client may publish to an existing room."""
        return self.policy is None or await self.policy.may_publish(identity, room)

    async def check_join(self, identity: Identity, room: str) -> None:
        """Raise a 403 if the client may not join a room."""
        if not await self.may_join(identity, room):
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
        if not is_room(room):
            raise InvalidRoom(f"there is no room {room!r}: {ROOM_RULE}")
        if not self._exists(room):
            raise InvalidRoom(f"there is no room {room!r}: only a subject of tokens has its own")

    def _exists(self, room: str) -> bool:
        """Return whether there can be such a room: `user:` rooms need tokens."""
        return not is_user_room(room) or (self.policy is not None and room.startswith("user:"))
