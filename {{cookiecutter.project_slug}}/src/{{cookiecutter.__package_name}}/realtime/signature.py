"""Finds what endpoints declare in their signatures: `connection: Admitted[Incoming, Outgoing]`."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin

from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_typed_signature
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import BaseRoute, Mount, WebSocketRoute
from starlette.types import Scope

from .connection import Connection
from .message_types import ANY_MESSAGE, MessageTypes, Subprotocol

Found = tuple[str, RouteContext]
"""A route, and the prefixes of its mounts."""


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

    def resolve(self, routes: Sequence[BaseRoute]) -> None:
        """Raise `TypeError` with the path of the first route whose message types can't be used."""
        for prefix, context in find_routes(routes):
            try:
                check_types(context)
            except Exception as error:
                path = f"{prefix}{context.path or ''}"
                raise TypeError(f"the message types of {path} can't be used: {error}") from error


def check_types(context: RouteContext) -> None:
    """Raise what pydantic raises, or `TypeError`, for types of an endpoint that can't be used."""
    if not isinstance(context.original_route, WebSocketRoute):
        return
    dependant: Dependant | None = getattr(context, "dependant", None)
    declared = declared_types(dependant)
    for subprotocol in subprotocols_in(dependant):
        types_under(subprotocol, declared)


def subprotocols_in(dependant: Dependant | None) -> Iterator[str]:
    """Yield the subprotocols of an endpoint's admission."""
    if dependant is None:
        return
    yield from getattr(dependant.call, "subprotocols", ())
    for dependency in dependant.dependencies:
        yield from subprotocols_in(dependency)


def find_routes(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[Found]:
    """Yield all routes with the prefixes of their mounts, in mounted applications, too."""
    for context in iter_route_contexts(routes):
        route = context.original_route
        if isinstance(route, Mount):
            yield from find_routes(route.routes, f"{prefix}{context.path or ''}")
        else:
            yield prefix, context


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
