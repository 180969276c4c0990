"""Web origins: the scheme, host and port of a page (RFC 6454)."""

import re
from collections.abc import Collection

from fastapi import HTTPException
from fastapi.requests import HTTPConnection

ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
DEFAULT_PORTS = {"http": 80, "https": 443}


def normal_origin(text: str) -> str | None:
    """Return an origin as browsers write it, `None` for what is none, like `null`.

    Two origins are the same if this is: scheme and host know no case, and the scheme's default
    port may be left out (RFC 6454 §4 to §6).
    """
    found = ORIGIN.fullmatch(text.lower()) if text.isascii() else None
    if found is None:
        return None
    scheme, host, port = found.groups()
    if port is None or int(port) == DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}"


def check_origin(connection: HTTPConnection, allowed: Collection[str], required: bool) -> None:
    """Raise a 403 for a web page of an origin that is not allowed.

    Browsers send the page's origin with every handshake and let any page connect anywhere, so
    without this check a foreign page could act as its visitor (RFC 6455 §10.2).
    """
    origins = connection.headers.getlist("origin")
    if not origins and not required:
        return
    if origins and "*" in allowed:
        return
    scheme = "https" if connection.scope["scheme"] in ("https", "wss") else "http"
    own = normal_origin(f"{scheme}://{connection.headers.get('host', '')}")
    origin = normal_origin(origins[0]) if len(origins) == 1 else None
    if origin is None or origin not in (own, *allowed):
        raise HTTPException(403, "origin not allowed; see APP_ALLOWED_ORIGINS")
