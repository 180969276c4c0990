"""Finds what endpoints declare in their signatures: `connection: Admitted[Incoming, Outgoing]`."""

from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, get_args, get_origin

from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_typed_signature
from starlette.types import Scope

from .connection import Connection
from .message_types import ANY_MESSAGE, MessageTypes, Subprotocol


class Signatures:
    """The message types of all endpoints; each is made once, when it is first asked for."""

    def __init__(self) -> None:
        self._known: dict[Any, MessageTypes] = {}

    def types(self, scope: Scope, subprotocol: str | None) -> MessageTypes:
        """Return those of the endpoint that a handshake came to, under a subprotocol."""
        key = scope.get("endpoint"), subprotocol
        if key not in self._known:
            dependant = getattr(scope.get("route"), "dependant", None)
            self._known[key] = types_under(subprotocol, declared_types(dependant))
        return self._known[key]


def types_under(subprotocol: str | None, declared: MessageTypes) -> MessageTypes:
    """Return the types of a subprotocol that has its own, or else those that are declared."""
    if isinstance(subprotocol, Subprotocol):
        return MessageTypes(subprotocol.incoming, subprotocol.outgoing)
    return declared


def declared_types(dependant: Dependant | None) -> MessageTypes:
    """Return the types that an endpoint declares, itself before its dependencies."""
    for arguments in connections_in(dependant):
        if arguments and not any(isinstance(each, TypeVar) for each in arguments):
            return MessageTypes(*arguments)
    return ANY_MESSAGE


def connections_in(dependant: Dependant | None) -> Iterator[tuple[Any, ...]]:
    """Yield `Incoming` and `Outgoing` of each parameter that is a connection."""
    if dependant is None or dependant.call is None:
        return
    for parameter in get_typed_signature(dependant.call).parameters.values():
        annotation = parameter.annotation
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        if get_origin(annotation) is Connection:
            yield get_args(annotation)
    for dependency in dependant.dependencies:
        yield from connections_in(dependency)
