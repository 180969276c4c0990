"""Rooms: a message of one member is sent to all others."""

from ..settings import RoomSettings
from .access import check_name, check_room, user_room
from .broker import BrokerUnavailable
from .event_stream import ROOM_STATE, EventStream, RequestedStream
from .events import (
    EVENTS_V1,
    ClientMessage,
    MessageEvent,
    Present,
    RoomState,
    RoomText,
    ServerEvent,
)
from .member import Member
from .parameters import (
    JSON_BODY,
    AdmittedRequest,
    IdempotencyKey,
    JsonBody,
    Last,
    RoomConnection,
    RoomInPath,
    RoomOrLobby,
    SenderName,
    Since,
)
from .post import PublishError, post_message
from .rooms import Rooms, RoomsDep

__all__ = [
    "EVENTS_V1",
    "JSON_BODY",
    "ROOM_STATE",
    "AdmittedRequest",
    "BrokerUnavailable",
    "ClientMessage",
    "EventStream",
    "IdempotencyKey",
    "JsonBody",
    "Last",
    "Member",
    "MessageEvent",
    "Present",
    "PublishError",
    "RequestedStream",
    "RoomConnection",
    "RoomInPath",
    "RoomOrLobby",
    "RoomSettings",
    "RoomState",
    "RoomText",
    "Rooms",
    "RoomsDep",
    "SenderName",
    "ServerEvent",
    "Since",
    "check_name",
    "check_room",
    "post_message",
    "user_room",
]
