"""A member: a connection in a room, from joining to leaving."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from fastapi import HTTPException, WebSocketDisconnect, WebSocketException
from pydantic import BaseModel, JsonValue

from ..close_codes import CloseCode
from ..connection import Connection
from ..formats import DETAILS, ErrorCode
from ..limits import network_of
from ..realtime import realtime_of
from .broker import BrokerUnavailable, Replay, RoomRefused
from .events import (
    EVENTS,
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
    format_of,
)
from .hub import Subscriber

if TYPE_CHECKING:
    from .rooms import Rooms

MAX_UNCONFIRMED = 32
"""Maximum unconfirmed messages of a member; at this many, `add` waits until none is left."""

REFUSALS = {401: ErrorCode.UNAUTHORIZED, 503: ErrorCode.UNAVAILABLE}
"""Error codes for a rejected new token, by the HTTP status of a handshake with it."""

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
    """A connection in a room. `async with` joins and leaves it; `async for` yields its messages."""

    _rooms: "Rooms"
    _connection: Connection
    room: str
    name: str  # that others see
    _since: str = ""  # the last id that a returning member received
    _last: int = 0  # messages to send to a new one
    _subscriber: Subscriber = field(init=False)
    _confirmations: Confirmations | None = None
    _timer: asyncio.TimerHandle | None = None
    _leaving: asyncio.Task[None] | None = None
    _unanswered: ClientPing | ClientToken | None = None

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
        """Leave the room, and notify the other members."""
        self._connection.remove_closed_callback(self._leave_later)
        if self._timer is not None:
            self._timer.cancel()
        if self._confirmations is not None:
            self._confirmations.drop()
        await (self._leaving or self._leave())

    def __aiter__(self) -> Self:
        """Return this member, which is an iterator of its messages; see `receive`."""
        return self

    async def __anext__(self) -> ClientMessage:
        while True:
            event, self._unanswered = self._unanswered, None
            if event is None:
                received = await self._subscriber.format.receive(self._connection)
                if isinstance(received, str):
                    return ClientMessage(received)
                if isinstance(received, ClientMessage):
                    return received
                event = received
            try:
                await self._answer(event)
            except BaseException:  # cancelled: whoever reads next answers it
                self._unanswered = event
                raise

    async def receive(self) -> ClientMessage:
        """Return the next message that the member sends.

        `data` is any JSON value under `events.v1`, and a string otherwise. Invalid messages get
        an error, pings a pong, and a new token replaces the old one; none of these is returned.
        If this is cancelled, or times out, no message is lost. Raises `WebSocketDisconnect` once
        the connection has ended.
        """
        try:
            return await anext(self)
        except StopAsyncIteration:
            code = self._connection.close_code or CloseCode.ABNORMAL
            raise WebSocketDisconnect(code, self._connection.close_reason) from None

    async def publish(self, data: JsonValue, ref: str = "") -> None:
        """Send a message to all other members of the room. Waits while too much is pending.

        With a `ref`, the member gets an `accepted` event with the message's id, and a message
        that is resent with the same `ref` is not published twice. If the policy forbids it, the
        member's address has stored too much, or the broker is unavailable, the member gets an
        error, perhaps after this has returned.
        Raises `WebSocketDisconnect` if the connection closes while the policy is consulted.
        """
        connection = self._connection
        if not await self._rooms.may_publish(connection.identity, self.room):
            await self._send_error(ErrorCode.FORBIDDEN, ref)
            return
        if not connection.is_reading:
            raise WebSocketDisconnect(CloseCode.GOING_AWAY)
        event = MessageEvent(room=self.room, sender=self.name, data=data)
        key = self._rooms.ref_key(connection.subject, ref)
        try:
            published = await self._rooms.broker.publish(event, connection.id, key, self._address)
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

    @property
    def _address(self) -> str:
        return network_of(self._connection.host)

    async def _accept(self, ref: str, message_id: str) -> None:
        if ref:
            with suppress(WebSocketDisconnect):  # messages that came before are still published
                await self._send(AcceptedEvent(ref=ref, id=message_id))

    async def _refuse(self, ref: str) -> None:
        with suppress(WebSocketDisconnect):
            await self._send_error(ErrorCode.UNAVAILABLE, ref)

    async def _answer(self, event: ClientPing | ClientToken) -> None:
        if isinstance(event, ClientPing):
            await self._send(PongEvent(ref=event.ref or None))
        else:
            await self._renew(event)

    async def _renew(self, event: ClientToken) -> None:
        """Accept a valid token of the same subject that may join the room, or send an error."""
        connection = self._connection
        try:
            identity = await realtime_of(connection.websocket).renew(connection, event.token)
            await self._rooms.check_join(identity, self.room)
        except HTTPException as refusal:
            code = REFUSALS.get(refusal.status_code, ErrorCode.FORBIDDEN)
            await self._send_error(code, event.ref)
            return
        connection.renew(identity)
        if event.ref:
            await self._send(AcceptedEvent(ref=event.ref))

    async def _send(self, event: BaseModel) -> None:
        await self._connection.send_message(event.model_dump_json(exclude_none=True))

    async def _send_error(self, code: ErrorCode, ref: str) -> None:
        await self._connection.send_message(self._subscriber.format.error(code, DETAILS[code], ref))

    async def _enter(self) -> str:
        """Subscribe, and return the position after which the member receives every message."""
        self._subscriber = self._rooms.hub.subscribe(self.room, self._connection)
        try:
            return await self._rooms.broker.enter(self.room, self._address)
        except BaseException:
            self._rooms.hub.unsubscribe(self._subscriber)
            raise

    async def _start(self, position: str) -> None:
        """Send missed messages, or the last ones, then those held since it subscribed.

        A client that is gone is never announced, but what it sent before is still published.
        """
        replayed, has_events = 0, self._subscriber.format is EVENTS
        with suppress(WebSocketDisconnect):
            if has_events and (self._since or self._last):
                replay = await self._replay()
                replayed, position = replay.last_offset, replay.position
            if has_events:
                room, sender, connection = self.room, self.name, self._connection.id
                await self._send(
                    JoinedEvent(id=position, room=room, sender=sender, connection=connection)
                )
            await self._announce("joined")
            if has_events and self._rooms.broker.presence_limit:
                present = await self._rooms.broker.present(self.room)
                self._subscriber.start(replayed, PresentEvent(room=self.room, **dict(present)))
            else:
                self._subscriber.start(replayed)

    def _leave_later(self) -> None:
        """Leave in `LEAVE_SECONDS`, even if the endpoint doesn't notice that its client has gone."""
        self._timer = asyncio.get_running_loop().call_later(LEAVE_SECONDS, self._leave_now)

    def _leave_now(self) -> None:
        self._leaving = asyncio.create_task(self._leave())

    async def _leave(self) -> None:
        self._rooms.hub.unsubscribe(self._subscriber)
        try:
            await self._announce("left")
        finally:
            self._rooms.broker.leave(self.room)

    async def _announce(self, kind: Literal["joined", "left"]) -> None:
        connection = self._connection.id
        event = PresenceEvent(type=kind, room=self.room, sender=self.name, connection=connection)
        await self._rooms.broker.announce(event)

    async def _replay(self) -> Replay:
        """Send the messages after `since`, with `gap` before them if some are lost; or the last."""
        room, since, connection = self.room, self._since, self._connection
        last = 0 if since else self._last
        replay = await self._rooms.broker.replay(room, since, self._address, last)
        self._rooms.hub.hold(self._subscriber, replay.size)
        if not replay.is_complete:
            await self._send(GapEvent(room=room, since=since))
        for frame in replay.frames:
            await connection.send_frame(frame)
        if since:
            await self._send(ResumedEvent(id=replay.position, room=room, since=since))
        return replay
