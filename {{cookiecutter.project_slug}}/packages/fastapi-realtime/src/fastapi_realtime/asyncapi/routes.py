"""The HTTP routes of the AsyncAPI document and its page."""

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse

from ..signature import find_routes
from .document import make_document
from .page import HEADERS, NO_STORE, make_main, make_page

HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
DEFAULT_SERVER = "ws://localhost:8000"


class Documents:
    """The document of an application; it is created again when routes have changed."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._routes: list[Any] | None = None
        self._document: dict[str, Any] = {}

    def at(self, server: str) -> dict[str, Any]:
        """Return the document for a server such as `wss://chat.example.com/prefix`."""
        found = find_routes(self._app.routes)
        routes = [(prefix, each.path, each.endpoint) for prefix, each in found]
        if routes != self._routes:
            self._document = make_document(self._app, self._app.state.realtime)
            self._routes = routes
        protocol, _, rest = server.partition("://")
        host, slash, path = rest.partition("/")
        where = {"host": host, "protocol": protocol, "pathname": f"{slash}{path}".rstrip("/")}
        servers = {"server": {key: value for key, value in where.items() if value}}
        first = {key: self._document[key] for key in ("asyncapi", "info")}
        if docs := docs_path(self._app):
            url = f"{'https' if protocol == 'wss' else 'http'}://{host}{where['pathname']}{docs}"
            external = {"url": url, "description": "The HTTP routes of the same application"}
            first["info"] = first["info"] | {"externalDocs": external}
        return {**first, "servers": servers, **{**self._document, **first}}


def asyncapi_document(app: FastAPI, server: str = DEFAULT_SERVER) -> dict[str, Any]:
    """Return the AsyncAPI 3.0.0 document of an application; `server` is the URL for clients.

    Raises pydantic's exceptions for types in a signature that it does not support.
    """
    return Documents(app).at(server)


def add_asyncapi(app: FastAPI, url: str = "/asyncapi") -> None:
    """Serve the AsyncAPI document as JSON at `<url>.json`, and as an HTML page at `url`.

    Both include routes that are added later. Like FastAPI's `/docs`, they are public.
    """
    documents = Documents(app)

    async def document(request: Request) -> JSONResponse:
        return JSONResponse(documents.at(server_of(request)), headers=NO_STORE)

    async def page(request: Request) -> HTMLResponse:
        root = root_path(request)
        links = {"asyncapi.json": f"{root}{url}.json"}
        if docs := docs_path(app):
            links["HTTP routes"] = f"{root}{docs}"
        if has_start_page(app):
            links["Console"] = f"{root}/"
        server = server_of(request)
        found = documents.at(server)
        html = make_page(found["info"], server, links, make_main(found))
        return HTMLResponse(html, headers=HEADERS)

    app.add_route(f"{url}.json", document, include_in_schema=False)
    app.add_route(url, page, include_in_schema=False)


def server_of(request: Request) -> str:
    """Return the URL that the client used, also behind a proxy that sets `root_path`."""
    host = request.headers.get("host", "")
    if not HOST.fullmatch(host):
        host = DEFAULT_SERVER.partition("://")[2]
    protocol = "wss" if request.url.scheme == "https" else "ws"
    return f"{protocol}://{host}{root_path(request)}"


def root_path(request: Request) -> str:
    """Return the path prefix of a proxy or a mount."""
    root: str = request.scope.get("root_path", "")
    return root.rstrip("/")


def docs_path(app: FastAPI) -> str:
    """Return the path of FastAPI's documentation of the HTTP routes, or an empty string."""
    return (app.docs_url or "") if app.openapi_url else ""


def has_start_page(app: FastAPI) -> bool:
    """Return whether the application has a page at `/`."""
    return getattr(app.state, "has_page", False) or any(
        not prefix and each.path == "/" and "GET" in (each.methods or ())
        for prefix, each in find_routes(app.routes)
    )
