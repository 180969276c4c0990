"""Finds the WebSocket routes of an application and their declarations."""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import cleandoc, getdoc
from typing import Any

from starlette.routing import BaseRoute, Route, WebSocketRoute

from ..admission import Admission
from ..fastapi_internals import Dependant, RouteContext
from ..message_types import Found, Subprotocol, declared_types, find_routes, types_under
from .messages import Exchange, exchange, identifier
from .parameters import Parameter, parameters


@dataclass(eq=False)
class Endpoint:
    """A WebSocket route; `admission` is `None` if it does not use the engine."""

    name: str
    address: str
    description: str
    tags: list[str]
    admission: Admission | None
    exchanges: list[Exchange]
    parameters: list[Parameter]
    http_methods: list[str]

    @property
    def subprotocols(self) -> list[str]:
        """Names of its subprotocols."""
        return [str(name) for name in self.admission.subprotocols] if self.admission else []


def find_endpoints(routes: Sequence[BaseRoute]) -> list[Endpoint]:
    """Return all WebSocket routes; of several with the same path, only the first, as in routing."""
    found = list(find_routes(routes))
    endpoints: dict[str, Endpoint] = {}
    for prefix, context in found:
        if isinstance(context.original_route, WebSocketRoute):
            endpoint = describe(prefix, context)
            endpoint.http_methods = http_methods(endpoint.address, found)
            endpoints.setdefault(endpoint.address, endpoint)
    return list(endpoints.values())


def describe(prefix: str, context: RouteContext) -> Endpoint:
    """Return the endpoint of a route."""
    dependant: Dependant | None = getattr(context, "dependant", None)
    admission = find_admission(dependant)
    declared = declared_types(dependant)
    forms = [exchange(declared, None, errors=admission is not None)]
    for subprotocol in admission.subprotocols if admission else ():
        if isinstance(subprotocol, Subprotocol):
            types = types_under(subprotocol, declared)
            forms.append(exchange(types, subprotocol, errors=False))
    names = list(getattr(context, "param_convertors", {}))
    return Endpoint(
        identifier(context.name or "") or "websocket",
        address_of(prefix, context),
        cleandoc(getdoc(context.endpoint) or ""),
        [str(getattr(tag, "value", tag)) for tag in tags_of(context)],
        admission,
        forms,
        parameters(dependant, names),
        [],
    )


def tags_of(context: RouteContext) -> list[Any]:
    """Return the tags of a route's routers."""
    return getattr(context, "tags", None) or []


def address_of(prefix: str, context: RouteContext) -> str:
    """Return the path with parameter names but without convertors: `/items/{id}`."""
    return f"{prefix}{context.path_format or context.path or ''}"


def http_methods(address: str, found: list[Found]) -> list[str]:
    """Return the methods of HTTP routes at the same path, if they are in the schema."""
    methods: set[str] = set()
    for prefix, context in found:
        is_route = isinstance(context.original_route, Route)
        if is_route and address_of(prefix, context) == address:
            methods |= (context.methods or set()) if context.include_in_schema else set()
    return sorted(methods)


def find_admission(dependant: Dependant | None) -> Admission | None:
    """Return the admission among the dependencies of an endpoint, at any depth."""
    if dependant is None:
        return None
    if isinstance(dependant.call, Admission):
        return dependant.call
    found = map(find_admission, dependant.dependencies)
    return next((admission for admission in found if admission), None)
