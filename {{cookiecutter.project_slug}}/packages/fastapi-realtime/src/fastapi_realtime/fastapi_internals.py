"""All that the engine uses of FastAPI beyond its documentation.

Where a release lacks one of these names, the API documents say less, one warning says so, and the
application starts all the same.
"""

import inspect
import logging
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi import __version__ as version
from fastapi.exception_handlers import http_exception_handler
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

__all__ = [
    "Dependant",
    "RouteContext",
    "get_typed_signature",
    "has_default_handlers",
    "iter_route_contexts",
]

logger = logging.getLogger(__name__)


class PlainContext:
    """A route as it was declared, in place of FastAPI's context of a route in a router."""

    def __init__(self, route: BaseRoute) -> None:
        self.original_route = route
        self.path: str | None = getattr(route, "path", None)
        self.path_format: str | None = getattr(route, "path_format", self.path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original_route, name, None)


def plain_contexts(routes: Sequence[BaseRoute]) -> Iterator[PlainContext]:
    """Yield routes, but not those of included routers."""
    return map(PlainContext, routes)


def plain_signature(call: Any) -> inspect.Signature:
    """Return a signature with its annotations evaluated."""
    return inspect.signature(call, eval_str=True)


def find(module: str, name: str, default: Any) -> Any:
    """Return a name of FastAPI, or else a default and a warning."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError):
        logger.warning("FastAPI %s has no %s.%s: API documents are poorer", version, module, name)
        return default


if TYPE_CHECKING:
    from fastapi.dependencies.models import Dependant
    from fastapi.dependencies.utils import get_typed_signature
    from fastapi.routing import RouteContext, iter_route_contexts
else:
    Dependant = find("fastapi.dependencies.models", "Dependant", object)
    RouteContext = find("fastapi.routing", "RouteContext", PlainContext)
    get_typed_signature = find("fastapi.dependencies.utils", "get_typed_signature", plain_signature)
    iter_route_contexts = find("fastapi.routing", "iter_route_contexts", plain_contexts)


def has_default_handlers(app: FastAPI) -> bool:
    """Return whether an application leaves exceptions to FastAPI."""
    return app.exception_handlers.get(HTTPException) is http_exception_handler
