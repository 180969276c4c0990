"""The types of an endpoint's messages, as its signature declares them."""

from types import UnionType
from typing import Annotated, Any, Never, NoReturn, Union, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo


class Subprotocol(str):
    """The name of a subprotocol whose messages have types of their own.

    Types in the signature of an endpoint are then for clients that ask for no subprotocol.
    """

    incoming: Any
    outgoing: Any
    summary: str

    def __new__(cls, name: str, incoming: Any, outgoing: Any, summary: str = "") -> "Subprotocol":
        """`outgoing` has to include the errors that `connection.format` writes."""
        self = super().__new__(cls, name)
        self.incoming, self.outgoing, self.summary = incoming, outgoing, summary
        return self


class MessageTypes:
    """What a connection receives and sends: text, binary, both, or JSON of a type.

    `str`, `bytes` and `str | bytes` are messages as they are, and `Never` is none at all. Any
    other type is JSON.
    """

    __slots__ = ("incoming", "outgoing", "refused", "schema", "serializer")

    def __init__(self, incoming: Any, outgoing: Any) -> None:
        """Raises `TypeError` for limits on text, and what pydantic raises for its types."""
        self.incoming = incoming
        self.outgoing = outgoing
        received, sent = raw_types(incoming), raw_types(outgoing)
        self.refused: type | None = None
        self.schema: TypeAdapter[Any] | None = None
        if received is None:
            self.schema = TypeAdapter(incoming)
        elif refused := {str, bytes} - received:
            self.refused = object if len(refused) == 2 else refused.pop()
        self.serializer = TypeAdapter(outgoing).serializer if sent is None else None

    def encode(self, message: Any) -> str | bytes:
        """Return a message as it is sent; numbers that have no JSON form become `null`."""
        if self.serializer is None:
            return message
        return self.serializer.to_json(message, by_alias=True).decode()


def raw_types(declared: Any) -> set[type] | None:
    """Return which of `str` and `bytes` messages are; `None` where they are JSON."""
    kinds = {kind for kind, _ in branches(declared)}
    if not kinds <= {str, bytes}:
        return None
    for kind, notes in branches(declared):
        if any(isinstance(note, FieldInfo) and note.metadata for note in notes):
            hint = "take a pydantic model, or check the text in the endpoint"
            raise TypeError(f"limits on {kind.__name__} messages are not checked; {hint}")
    return kinds


def branches(declared: Any, notes: tuple[Any, ...] = ()) -> list[tuple[Any, tuple[Any, ...]]]:
    """Return the types of a union, each with what is annotated; a single type is one branch."""
    if declared in (Never, NoReturn):
        return []
    if hasattr(declared, "__value__"):  # type Message = Order | Cancel
        return branches(declared.__value__, notes)
    if get_origin(declared) is Annotated:
        inner, *annotated = get_args(declared)
        return branches(inner, (*notes, *annotated))
    if get_origin(declared) in (Union, UnionType):
        return [branch for each in get_args(declared) for branch in branches(each, notes)]
    return [(declared, notes)]


ANY_MESSAGE = MessageTypes(str | bytes, str | bytes)
"""Text and binary messages, where a signature declares nothing."""
