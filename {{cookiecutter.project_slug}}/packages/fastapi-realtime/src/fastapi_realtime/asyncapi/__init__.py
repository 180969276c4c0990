"""AsyncAPI: documentation of an application's WebSocket routes."""

from .routes import add_asyncapi, asyncapi_document

__all__ = ["add_asyncapi", "asyncapi_document"]
