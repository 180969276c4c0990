"""A connection in a room, from joining to leaving."""

from collections.abc import AsyncIterator
from typing import Literal, Self

from fastapi import HTTPException, WebSocketDisconnect, WebSocketException
from pydantic import JsonValue

from ..close_codes import CloseCode
from ..connection import Connection
from ..formats import DETAILS, ErrorCode, dump_json
from ..realtime import realtime_of
from .access import RoomAccess
from .broker import Broker, BrokerUnavailable
from .confirmations import Confirmations
from .events import (
    AcceptedEvent,
    ClientMessage,
    ClientPing,
    ClientToken,
    GapEvent,
    JoinedEvent,
    MessageEvent,
    PongEvent,
    PresenceEvent,
    PresentEvent,
    ResumedEvent,
)
from .formats import EVENTS, format_of
from .history import Replay
from .hub import Hub

REFUSALS = {401: ErrorCode.UNAUTHORIZED, 503: ErrorCode.UNAVAILABLE}
"""Errors for a new token, by the status that a handshake with it would get."""


class Member:
    """A connection that joins a room with `async with`, and leaves it at the end.

    Iterate over it for the messages that it sends.
    """

    # A process holds thousands of them.
    __slots__ = (
        "_access",
        "_broker",
        "_confirmations",
        "_connection",
        "_hub",
        "_since",
        "_subscriber",
        "name",
        "room",
    )

    def __init__(
        self,
        hub: Hub,
        broker: Broker,
        access: RoomAccess,
        connection: Connection,
        room: str,
        name: str,
        since: str,
    ) -> None:
        """`name` is what others see; `since` the last id that a returning member received."""
        self.room = room
        self.name = name
        self._hub = hub
        self._broker = broker
        self._access = access
        self._connection = connection
        self._since = since
        self._confirmations: Confirmations | None = None

    async def __aenter__(self) -> Self:
        """Answer the handshake, send what was missed, and tell the others.

        Raises a 403 for a room that the client may not join, a 503 while the broker is
        unavailable; if that is found out after the handshake, the client sees 1013.
        """
        await self._access.check_join(self._connection.identity, self.room)
        position = await self._enter()
        try:
            await self._connection.accept()
            self._connection.format = format_of(self._connection)
            await self._start(position)
        except BrokerUnavailable as error:
            await self._leave()
            raise WebSocketException(CloseCode.TRY_AGAIN_LATER, error.detail) from None
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Leave the room, and tell the others."""
        await self._leave()

    async def __aiter__(self) -> AsyncIterator[ClientMessage]:
        """Yield every message that the member sends.

        Under `events.v1`, its `data` is any JSON value, else a text. Invalid messages are
        answered with an error, pings with a pong, and a new token replaces the old one.
        """
        async for event in self._subscriber.format.decode(self._connection):
            if isinstance(event, str):
                yield ClientMessage(event)
            elif isinstance(event, ClientMessage):
                yield event
            else:
                await self._answer(event)

    async def publish(self, data: JsonValue, ref: str = "") -> None:
        """Send a message to all others in the room; wait while too much is pending there.

        With a `ref`, the member is told of its id, and if it comes again it is not sent again.
        Where policy refuses it, or the broker is unavailable, the member gets an error; that may
        be after this has returned.
        Raises `WebSocketDisconnect` if the connection was closed while policy was asked.
        """
        connection = self._connection
        if not await self._access.may_publish(connection.identity, self.room):
            await self._send_error(ErrorCode.FORBIDDEN, ref)
            return
        if not connection.is_open:
            raise WebSocketDisconnect(CloseCode.GOING_AWAY)
        event = MessageEvent(room=self.room, sender=self.name, data=data)
        key = self._access.ref_key(connection.subject, ref)
        try:
            published = await self._broker.publish(event, connection.id, key)
        except BrokerUnavailable:
            await self._refuse(ref)
            return
        if isinstance(published, str):
            await self._accept(ref, published)
        else:
            self._confirmations = self._confirmations or Confirmations(self._accept, self._refuse)
            await self._confirmations.add(ref, published)

    async def _accept(self, ref: str, message_id: str) -> None:
        if ref:
            await self._connection.send_message(encode(AcceptedEvent(ref=ref, id=message_id)))

    async def _refuse(self, ref: str) -> None:
        await self._send_error(ErrorCode.UNAVAILABLE, ref)

    async def _answer(self, event: ClientPing | ClientToken) -> None:
        if isinstance(event, ClientPing):
            await self._connection.send_message(encode(PongEvent(ref=event.ref or None)))
        else:
            await self._renew(event)

    async def _renew(self, event: ClientToken) -> None:
        """Take a valid token of the same subject that still opens the room, or send an error."""
        connection = self._connection
        try:
            identity = await realtime_of(connection.websocket).renew(connection, event.token)
            await self._access.check_join(identity, self.room)
        except HTTPException as refusal:
            code = REFUSALS.get(refusal.status_code, ErrorCode.FORBIDDEN)
            await self._send_error(code, event.ref)
            return
        connection.renew(identity)
        if event.ref:
            await connection.send_message(encode(AcceptedEvent(ref=event.ref)))

    async def _send_error(self, code: ErrorCode, ref: str) -> None:
        await self._connection.send_message(self._subscriber.format.error(code, DETAILS[code], ref))

    async def _enter(self) -> str:
        """Subscribe, and return the position after which the member misses nothing."""
        self._subscriber = self._hub.subscribe(self.room, self._connection)
        try:
            return await self._broker.enter(self.room)
        except BaseException:
            self._hub.unsubscribe(self._subscriber)
            raise

    async def _start(self, position: str) -> None:
        """Send what a returning member has missed, and then what was published meanwhile."""
        replayed, is_listening = 0, self._subscriber.format is EVENTS
        if is_listening and self._since:
            replay = await self._replay()
            replayed, position = replay.last_offset, replay.position
        if is_listening:
            await self._send_joined(position)
        await self._announce("joined")
        if is_listening and self._broker.presence_limit:
            present = await self._broker.present(self.room)
            self._subscriber.start(replayed, PresentEvent(room=self.room, **dict(present)))
        else:
            self._subscriber.start(replayed)

    async def _leave(self) -> None:
        self._hub.unsubscribe(self._subscriber)
        if self._confirmations is not None:
            self._confirmations.drop()
        try:
            await self._announce("left")
        finally:
            self._broker.leave(self.room)

    async def _announce(self, kind: Literal["joined", "left"]) -> None:
        connection = self._connection.id
        event = PresenceEvent(type=kind, room=self.room, sender=self.name, connection=connection)
        await self._broker.announce(event)

    async def _send_joined(self, position: str) -> None:
        room, sender, connection = self.room, self.name, self._connection.id
        event = JoinedEvent(id=position, room=room, sender=sender, connection=connection)
        await self._connection.send_message(dump_json(event))

    async def _replay(self) -> Replay:
        """Send what came after the last id that the member received."""
        room, since, connection = self.room, self._since, self._connection
        replay = await self._broker.replay(room, since)
        if not replay.is_complete:
            await connection.send_message(dump_json(GapEvent(room=room, since=since)))
        for frame in replay.frames:
            await connection.send_frame(frame)
        resumed = ResumedEvent(id=replay.position, room=room, since=since)
        await connection.send_message(dump_json(resumed))
        return replay


def encode(event: AcceptedEvent | PongEvent) -> str:
    """Return an event as JSON, without fields that are `None`."""
    return event.model_dump_json(exclude_none=True)
