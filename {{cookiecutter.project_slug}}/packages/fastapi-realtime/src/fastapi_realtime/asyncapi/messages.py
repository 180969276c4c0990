"""Messages, made from the types in an endpoint's signature."""

import re
from dataclasses import dataclass, field, is_dataclass
from inspect import isclass
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from ..formats import DETAILS, ErrorCode, ErrorFrame
from ..message_types import MessageTypes, Subprotocol, branches, raw_types

Mode = Literal["validation", "serialization"]

TEXT, BINARY, JSON = "text/plain", "application/octet-stream", "application/json"

INVALID = (ErrorCode.INVALID_JSON, ErrorCode.INVALID_SHAPE, ErrorCode.TEXT_EXPECTED)
"""Error codes of an endpoint that expects JSON."""


@dataclass(eq=False)
class Message:
    """One kind of message; `mode` is validation for incoming ones, serialization for outgoing ones.

    `declared` is the union that it is part of.
    """

    name: str
    adapter: TypeAdapter[Any]
    mode: Mode
    declared: TypeAdapter[Any] | None = None
    content_type: str = JSON
    description: str = ""
    examples: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class Exchange:
    """The messages in both directions, under a subprotocol or without one."""

    subprotocol: Subprotocol | None
    incoming: list[Message]
    outgoing: list[Message]


def exchange(types: MessageTypes, subprotocol: Subprotocol | None, *, errors: bool) -> Exchange:
    """Return the messages of these types; with `errors`, also the engine's error frames."""
    incoming = messages(types.incoming, "validation")
    outgoing = messages(types.outgoing, "serialization")
    if errors:
        outgoing.append(error_message(is_json=types.schema is not None))
    return Exchange(subprotocol, incoming, outgoing)


def messages(declared: Any, mode: Mode) -> list[Message]:
    """Return a message for each model of a union; any other type is one message."""
    kinds = [kind for kind, _ in branches(declared)]
    if raw_types(declared) is not None:
        return [raw_message(kind, notes, mode) for kind, notes in branches(declared)]
    if all(is_model(kind) for kind in kinds):
        union: TypeAdapter[Any] = TypeAdapter(declared)
        return [Message(name_of(kind), TypeAdapter(kind), mode, union) for kind in kinds]
    return [Message("json", TypeAdapter(declared), mode, description="JSON.")]


def raw_message(kind: type, notes: tuple[Any, ...], mode: Mode) -> Message:
    """Return a text or binary message, with the description and examples of a `Field`."""
    if kind is bytes:
        about = "Binary data."
        message = Message("binary", TypeAdapter(bytes), mode, None, BINARY, about)
    else:
        message = Message("text", TypeAdapter(str), mode, None, TEXT, "Text.")
        message.examples = ["Hello"] if mode == "validation" else []
    for note in notes:
        if isinstance(note, FieldInfo):
            message.description = note.description or message.description
            message.examples = note.examples or message.examples
    return message


def error_message(*, is_json: bool) -> Message:
    """Return the error frame, with an example for each code that the engine sends."""
    codes = (*INVALID, ErrorCode.RATE_LIMITED) if is_json else (ErrorCode.RATE_LIMITED,)
    message = Message("error", TypeAdapter(ErrorFrame), "serialization")
    for code in codes:
        path = "data.price" if code is ErrorCode.INVALID_SHAPE else None
        error = {"code": code, "detail": DETAILS[code], **({"path": path} if path else {})}
        message.examples.append({"error": error})
    return message


def is_model(kind: Any) -> bool:
    """Return whether a type is a pydantic model, a dataclass or a `TypedDict`."""
    kind = getattr(kind, "__origin__", kind)  # of a generic dataclass
    if not isclass(kind):
        return False
    is_typed_dict = hasattr(kind, "__required_keys__")
    return is_typed_dict or is_dataclass(kind) or issubclass(kind, BaseModel)


def name_of(kind: Any) -> str:
    """Return the name of a type as a valid key."""
    return identifier(getattr(kind, "__name__", str(kind))) or "json"


def unused(name: str, used: dict[str, Any]) -> str:
    """Return a name, with a number appended if it is in use."""
    number, wanted = 1, name
    while name in used:
        number += 1
        name = f"{wanted}_{number}"
    return name


def identifier(text: str) -> str:
    """Return a text with runs of anything but ASCII letters, digits and `_` replaced by `_`."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")
