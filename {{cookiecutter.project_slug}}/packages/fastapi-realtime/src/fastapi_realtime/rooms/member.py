"""A member: a connection in a room, from joining to leaving."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from fastapi import HTTPException, WebSocketDisconnect, WebSocketException
from pydantic import BaseModel

from ..connection import Connection
from ..errors import CloseCode
from ..limits import network_of
from ..messages import DETAILS, ErrorCode
from ..realtime import realtime_of
from .access import profile_of, user_room
from .broker import BrokerUnavailable, Replay, RoomRefused
from .events import (
    EVENTS,
    AcceptedEvent,
    Batch,
    ClientJoin,
    ClientLeave,
    ClientMessage,
    ClientPing,
    ClientRequest,
    ClientToken,
    EncodedEvent,
    GapEvent,
    JoinedEvent,
    MessageEvent,
    PongEvent,
    PresenceEvent,
    PresentEvent,
    ResumedEvent,
    format_of,
)
from .hub import Subscriber

if TYPE_CHECKING:
    from .rooms import Rooms

MAX_UNCONFIRMED = 32
"""Maximum unconfirmed messages of a member; at this many, `add` waits until none is left."""

REFUSALS = {
    401: ErrorCode.UNAUTHORIZED,
    429: ErrorCode.RATE_LIMITED,
    503: ErrorCode.UNAVAILABLE,
}
"""Error codes for a rejected join or token, by the HTTP status of a handshake with it."""

LEAVE_SECONDS = 1.0
"""Seconds for an endpoint to handle the last messages of a client that has gone."""


@dataclass(slots=True, eq=False)
class Confirmations:
    """Reports the ids of published messages to their sender, in order."""

    accepted: Callable[[str, str], Awaitable[None]]
    """Called with the `ref` and the id of each message."""
    refused: Callable[[str], Awaitable[None]]
    """Called instead with the `ref` of a message that is not published."""
    _waiting: deque[tuple[str, asyncio.Future[str]]] = field(default_factory=deque)
    _task: asyncio.Task[None] | None = None

    async def add(self, ref: str, published: asyncio.Future[str]) -> None:
        """Add a message; `published` is the future of its id. Waits at `MAX_UNCONFIRMED`."""
        self._waiting.append((ref, published))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        if len(self._waiting) >= MAX_UNCONFIRMED:
            await self.wait()

    async def wait(self) -> None:
        """Wait until all messages have been reported."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def drop(self) -> None:
        """Stop reporting: the member has left. Its messages are published all the same."""
        if self._task is not None:
            self._task.cancel()
        for _, published in self._waiting:
            published.cancel()

    async def _run(self) -> None:
        with suppress(WebSocketDisconnect):
            while self._waiting:
                ref, published = self._waiting[0]
                try:
                    message_id = await published
                except BrokerUnavailable:
                    await self.refused(ref)
                else:
                    await self.accepted(ref, message_id)
                self._waiting.popleft()


@dataclass(slots=True, eq=False, repr=False)  # a process may have thousands
class Member:
    """A connection in a room. `async with` joins and leaves it; `async for` yields its messages.

    Under `events.v1`, the client may join more rooms and leave any; what it has joined is left
    with this one.
    """

    _rooms: "Rooms"
    _connection: Connection
    room: str
    name: str  # that others see
    _since: str = ""  # the last id that a returning member received
    _last: int = 0  # messages to send to a new one
    _ref: str = ""  # of the client's request to join
    _joined_by: "Member | None" = None
    _subscriber: Subscriber = field(init=False)
    _confirmations: Confirmations | None = None
    _timer: asyncio.TimerHandle | None = None
    _leaving: asyncio.Task[None] | None = None
    _answering: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Accept the handshake, send missed messages, and notify the other members.

        Raises a 403 if the client may not join the room, a 429 if it is new and the client's
        address has stored too much, and a 503 while the broker is unavailable. If the broker fails
        after the handshake, the connection closes with 1013.
        """
        await self._rooms.check_join(self._connection.identity, self.room)
        position = await self._enter()
        try:
            await self._connection.accept()
            self._connection.format = format_of(self._connection)
            await self._start(position)
        except BaseException as error:
            await self._leave()
            if isinstance(error, BrokerUnavailable):
                raise WebSocketException(CloseCode.TRY_AGAIN_LATER, error.detail) from None
            raise
        self._connection.add_closed_callback(self._leave_later)
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Leave the room, and those that were joined by this member; notify the others there."""
        if self._answering is not None:
            self._answering.cancel()
            await asyncio.gather(self._answering, return_exceptions=True)
        await self._depart()
        for member in self._connection.memberships:
            if member._joined_by is self:
                await member._depart()

    def __aiter__(self) -> Self:
        """Return this member, which is an iterator of its messages; see `receive`."""
        return self

    async def __anext__(self) -> ClientMessage:
        connection = self._connection
        while True:
            if self._answering is not None:  # perhaps since a read that was cancelled
                await asyncio.shield(self._answering)
                self._answering = None
            received = await format_of(connection).receive(connection)
            if isinstance(received, str):
                return ClientMessage(received)
            if isinstance(received, ClientMessage):
                return received
            self._answering = asyncio.create_task(self._answer(received))

    async def receive(self) -> ClientMessage:
        """Return the next message that the member sends.

        `data` is any JSON value under `events.v1`, and a string otherwise. Invalid messages get
        an error, and requests to join, to leave, for a pong or for a new token are answered; none
        of these is returned. If this is cancelled, or times out, no message is lost. Raises
        `WebSocketDisconnect` once the connection has ended.
        """
        try:
            return await anext(self)
        except StopAsyncIteration:
            code = self._connection.close_code or CloseCode.ABNORMAL
            raise WebSocketDisconnect(code, self._connection.close_reason) from None

    async def relay(self, message: ClientMessage) -> None:
        """Publish a message to the room that it names, by default this one; see `publish`.

        If the client has not joined that room, it gets an error.
        """
        member = self._member_of(message.room or self.room)
        if member is None:
            await self._send_error(ErrorCode.NOT_JOINED, message.ref)
        else:
            await member.publish(message.data, message.ref, keep=message.keep)

    async def publish(
        self, data: Any, ref: str = "", *, keep: bool = True, ask_policy: bool = True
    ) -> None:
        """Send a message to all other members of the room. Waits while too much is pending.

        With a `ref`, the member gets an `accepted` event with the message's id, and a message
        that is resent with the same `ref` is not published twice. One that is not to `keep`
        reaches who is there now, and has no id. If the policy forbids it, the member's address has
        stored too much, or the broker is unavailable, the member gets an error, perhaps after this
        has returned. Without `ask_policy`, the endpoint decides: clients that may not publish by
        themselves can then do so through it. Raises `WebSocketDisconnect` if the connection closes
        while the policy is consulted.
        """
        connection = self._connection
        if ask_policy and not await self._rooms.may_publish(connection.identity, self.room):
            await self._send_error(ErrorCode.FORBIDDEN, ref)
            return
        if not connection.is_reading:
            raise WebSocketDisconnect(CloseCode.GOING_AWAY)
        event = MessageEvent(room=self.room, sender=self.name, data=data)
        key = self._rooms.ref_key(connection.subject, ref)
        try:
            published = await self._rooms.broker.publish(
                event, connection.id, key, self._address, keep=keep
            )
        except BrokerUnavailable:
            await self._refuse(ref)
            return
        except RoomRefused:
            await self._send_error(ErrorCode.RATE_LIMITED, ref)
            return
        if isinstance(published, str):
            await self._accept(ref, published)
        else:
            self._confirmations = self._confirmations or Confirmations(self._accept, self._refuse)
            await self._confirmations.add(ref, published)

    async def accept(self, message: ClientMessage, message_id: str = "") -> None:
        """Confirm a message that was not published, or by `Rooms.publish`, which returns its id.

        Whoever sent it with a `ref` waits for this, or for `refuse`.
        """
        await self._accept(message.ref, message_id)

    async def refuse(self, message: ClientMessage, code: str, detail: str) -> None:
        """Reject a message with an error of your own; the connection stays open."""
        text = format_of(self._connection).error(code, detail, message.ref)
        await self._connection.send_message(text)

    async def join(self, room: str, since: str = "", last: int = 0, ref: str = "") -> None:
        """Let the connection join another room, until it leaves it or this member leaves.

        Raises what joining a room does. A room that is joined already is left first.
        """
        member = self._rooms.join(self._connection, room, self.name, since, last)
        member._ref, member._joined_by = ref, self
        if (joined := self._member_of(room)) is not None:
            await joined._confirm()
            await joined._depart()
        await member.__aenter__()

    async def join_user_room(self) -> None:
        """Join the room of the connection's subject, unless it is joined or not open to it."""
        room = user_room(self._connection.subject)
        if self._connection.subject and self._member_of(room) is None:
            with suppress(HTTPException):
                await self.join(room)

    @property
    def _address(self) -> str:
        return network_of(self._connection.host)

    def _member_of(self, room: str) -> "Member | None":
        """Return the membership of this connection in a room."""
        found = (each for each in self._connection.memberships if each.room == room)
        return next(found, None)

    async def _accept(self, ref: str, message_id: str) -> None:
        if ref:
            with suppress(WebSocketDisconnect):  # messages that came before are still published
                await self._send(AcceptedEvent(ref=ref, id=message_id or None))

    async def _refuse(self, ref: str) -> None:
        with suppress(WebSocketDisconnect):
            await self._send_error(ErrorCode.UNAVAILABLE, ref)

    async def _answer(self, request: ClientRequest) -> None:
        if isinstance(request, ClientPing):
            await self._send(PongEvent(ref=request.ref or None))
        elif isinstance(request, ClientJoin):
            await self._answer_join(request)
        elif isinstance(request, ClientLeave):
            await self._answer_leave(request)
        else:
            await self._renew(request)

    async def _answer_join(self, request: ClientJoin) -> None:
        room, ref = request.room, request.ref
        is_new = self._member_of(room) is None
        if is_new and len(self._connection.memberships) >= self._rooms.max_rooms:
            await self._send_error(ErrorCode.TOO_MANY_ROOMS, ref, room)
            return
        try:
            await self.join(room, request.since, request.last, ref)
        except HTTPException as refusal:
            code = REFUSALS.get(refusal.status_code, ErrorCode.FORBIDDEN)
            await self._send_error(code, ref, room)
        except WebSocketException:
            await self._send_error(ErrorCode.UNAVAILABLE, ref, room)

    async def _answer_leave(self, request: ClientLeave) -> None:
        member = self._member_of(request.room)
        if member is None:
            await self._send_error(ErrorCode.NOT_JOINED, request.ref, request.room)
            return
        await member._confirm()
        subscriber, left = member._subscriber, EncodedEvent(member._presence("left"))
        subscriber.put(Batch([left], EVENTS))  # no event of the room comes after this one
        subscriber.flush()
        await member._depart()

    async def _renew(self, request: ClientToken) -> None:
        """Accept a valid token of the same subject that opens all rooms joined, or send an error."""
        connection = self._connection
        try:
            identity = await realtime_of(connection.websocket).renew(connection, request.token)
            for member in connection.memberships:
                await self._rooms.check_join(identity, member.room)
        except HTTPException as refusal:
            code = REFUSALS.get(refusal.status_code, ErrorCode.FORBIDDEN)
            await self._send_error(code, request.ref)
            return
        connection.renew(identity)
        if request.ref:
            await self._send(AcceptedEvent(ref=request.ref))

    async def _send(self, event: BaseModel) -> None:
        await self._connection.send_message(event.model_dump_json(exclude_none=True))

    async def _send_error(self, code: ErrorCode, ref: str, room: str = "") -> None:
        text = format_of(self._connection).error(code, DETAILS[code], ref, room=room)
        await self._connection.send_message(text)

    async def _enter(self) -> str:
        """Subscribe, and return the position after which the member receives every message."""
        connection, hub = self._connection, self._rooms.hub
        if self._member_of(self.room) is not None:
            raise ValueError(f"this connection has joined the room {self.room!r} already")
        other = next(iter(connection.memberships), None)
        self._subscriber = hub.subscribe(self.room, connection, other and other._subscriber)
        connection.memberships += (self,)
        try:
            return await self._rooms.broker.enter(self.room, self._address)
        except BaseException:
            self._unsubscribe()
            raise

    async def _start(self, position: str) -> None:
        """Send missed messages, or the last ones, then those held since it subscribed.

        A client that is gone is never announced, but what it sent before is still published.
        """
        replayed, has_events, room = 0, self._subscriber.format is EVENTS, self.room
        with suppress(WebSocketDisconnect):
            if has_events and (self._since or self._last):
                replay = await self._replay()
                replayed, position = replay.last_offset, replay.position
            if has_events:
                joined = JoinedEvent(
                    id=position,
                    room=room,
                    sender=self.name,
                    connection=self._connection.id,
                    ref=self._ref or None,
                )
                await self._send(joined)
            await self._rooms.broker.announce(self._presence("joined"))
            if has_events and self._rooms.broker.presence_limit:
                present = await self._rooms.broker.present(room)
                self._subscriber.start(room, replayed, PresentEvent(room=room, **dict(present)))
            else:
                self._subscriber.start(room, replayed)

    def _leave_later(self) -> None:
        """Leave in `LEAVE_SECONDS`, even if the endpoint doesn't notice that its client has gone."""
        self._timer = asyncio.get_running_loop().call_later(LEAVE_SECONDS, self._leave_soon)

    async def _confirm(self) -> None:
        """Wait until the client knows what has become of the messages that it has sent."""
        if self._confirmations is not None:
            await self._confirmations.wait()

    async def _depart(self) -> None:
        """Leave the room now."""
        self._connection.remove_closed_callback(self._leave_later)
        if self._timer is not None:
            self._timer.cancel()
        if self._confirmations is not None:
            self._confirmations.drop()
        await self._leave()

    async def _leave(self) -> None:
        """Leave the room, once; the other members are notified even if this is cancelled."""
        await asyncio.shield(self._leave_soon())

    def _leave_soon(self) -> asyncio.Task[None]:
        if self._leaving is None:
            self._unsubscribe()
            self._leaving = asyncio.create_task(self._announce_left())
        return self._leaving

    def _unsubscribe(self) -> None:
        self._rooms.hub.unsubscribe(self.room, self._subscriber)
        others = (each for each in self._connection.memberships if each is not self)
        self._connection.memberships = tuple(others)

    async def _announce_left(self) -> None:
        try:
            await self._rooms.broker.announce(self._presence("left"))
        finally:
            self._rooms.broker.leave(self.room)

    def _presence(self, kind: Literal["joined", "left"]) -> PresenceEvent:
        connection = self._connection
        profile = profile_of(connection.identity) if kind == "joined" else None
        return PresenceEvent(
            type=kind, room=self.room, sender=self.name, connection=connection.id, profile=profile
        )

    async def _replay(self) -> Replay:
        """Send the messages after `since`, with `gap` before them if some are lost; or the last."""
        room, since, connection = self.room, self._since, self._connection
        last = 0 if since else self._last
        replay = await self._rooms.broker.replay(room, since, self._address, last)
        self._rooms.hub.hold(room, self._subscriber, replay.size)
        if not replay.is_complete:
            await self._send(GapEvent(room=room, since=since))
        for frame in replay.frames:
            await connection.send_frame(frame)
        if since:
            await self._send(ResumedEvent(id=replay.position, room=room, since=since))
        return replay
