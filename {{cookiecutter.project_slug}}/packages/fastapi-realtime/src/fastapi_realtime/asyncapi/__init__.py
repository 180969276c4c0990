"""AsyncAPI: documentation of an application's WebSocket routes."""

from .document import asyncapi_document
from .page import add_asyncapi

__all__ = ["add_asyncapi", "asyncapi_document"]
