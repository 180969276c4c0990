"""The HTTP routes of the AsyncAPI document and its page."""

import re
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from pydantic_core import to_json

from ..message_types import find_routes
from .document import make_document
from .html import Html
from .page import HEADERS, NO_STORE, make_main, make_page

HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
DEFAULT_SERVER = "ws://localhost:8000"


class Documents:
    """The document of an application and its page, which are created again when routes change.

    A request costs only its own part, with the host: nothing is kept for each host.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._routes: list[Any] | None = None
        self._start: dict[str, Any] = {}
        self._rest: dict[str, Any] = {}
        self._json, self._main = b"", Html("")
        self._has_start_page = False

    def at(self, server: str) -> dict[str, Any]:
        """Return the document for a server such as `wss://chat.example.com/prefix`."""
        return self._start_at(server) | self._rest

    def json_at(self, server: str) -> bytes:
        """Return the document as JSON."""
        return json_of(self._start_at(server))[:-1] + b"," + self._json

    def page_at(self, server: str, url: str, root: str) -> str:
        """Return the page; `url` is the path of the document, and `root` precedes all paths."""
        info = self._start_at(server)["info"]
        links = {"asyncapi.json": f"{root}{url}"}
        if docs := docs_path(self._app):
            links["HTTP routes"] = f"{root}{docs}"
        if self._has_start_page or getattr(self._app.state, "has_page", False):
            links["Console"] = f"{root}/"
        return make_page(info, server, links, self._main)

    def _start_at(self, server: str) -> dict[str, Any]:
        """Return the start of the document, the only part that depends on the server."""
        self._update()
        protocol, _, rest = server.partition("://")
        host, slash, path = rest.partition("/")
        where = {"host": host, "protocol": protocol, "pathname": f"{slash}{path}".rstrip("/")}
        start = self._start | {
            "servers": {"server": {key: each for key, each in where.items() if each}}
        }
        if docs := docs_path(self._app):
            url = f"{'https' if protocol == 'wss' else 'http'}://{host}{where['pathname']}{docs}"
            external = {"url": url, "description": "The HTTP routes of the same application"}
            start["info"] = start["info"] | {"externalDocs": external}
        return start

    def _update(self) -> None:
        """Create all that is kept, if the routes are not those of the last time."""
        found = list(find_routes(self._app.routes))
        routes = [(prefix, each.path, each.endpoint) for prefix, each in found]
        if routes == self._routes:
            return
        document = make_document(self._app, self._app.state.realtime)
        self._main = make_main(document)
        self._start = {key: document.pop(key) for key in ("asyncapi", "info")}
        self._rest, self._json = document, json_of(document)[1:]
        self._has_start_page = any(
            not prefix and each.path == "/" and "GET" in (each.methods or ())
            for prefix, each in found
        )
        self._routes = routes


def json_of(document: dict[str, Any]) -> bytes:
    """Return a document as JSON, which has no infinity and no NaN."""
    return to_json(document, inf_nan_mode="null")


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

    async def document(request: Request) -> Response:
        body = documents.json_at(server_of(request))
        return Response(body, headers=NO_STORE, media_type="application/json")

    async def page(request: Request) -> HTMLResponse:
        html = documents.page_at(server_of(request), f"{url}.json", root_path(request))
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
