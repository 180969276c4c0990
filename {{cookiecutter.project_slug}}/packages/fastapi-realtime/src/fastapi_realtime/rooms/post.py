"""Publishing from another process, through the server's HTTP API."""

import json
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from ..server.logging import LOOPBACK
from ..settings import RealtimeSettings

TIMEOUT = 10.0
"""Seconds to wait for the server."""
CONNECTIONS = {"http": HTTPConnection, "https": HTTPSConnection}


class PublishError(Exception):
    """A message was not published, or the outcome is unknown; the text says why."""


def server_url(settings: RealtimeSettings) -> str:
    """Return the URL of a local server with these settings; raises `PublishError` for port 0."""
    if not settings.port:
        raise PublishError("APP_PORT=0 takes any port; say which with --url")
    host = LOOPBACK.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def post_message(url: str, text: str, token: str = "") -> str:
    """Publish a JSON text by a POST to the URL of a room, and return the id of the message.

    Ignores proxy settings of the environment. Raises `PublishError`.
    """
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        parts = urlsplit(url)
        connection = CONNECTIONS[parts.scheme](parts.netloc, timeout=TIMEOUT)
        try:
            connection.request("POST", f"{parts.path}?{parts.query}", text.encode(), headers)
            response = connection.getresponse()
            return _read_id(response.status, response.read())
        finally:
            connection.close()
    except KeyError:
        raise PublishError(f"{url}: a URL begins with http:// or https://") from None
    except (OSError, HTTPException, ValueError) as error:
        raise PublishError(f"{url}: {error}") from None


def _read_id(status: int, body: bytes) -> str:
    try:
        answer = json.loads(body)
        if status == 202:
            return str(answer["id"])
        reason = answer["detail"]
    except (ValueError, LookupError, TypeError):
        reason = "this is not the answer of a room"
    raise PublishError(f"{status}: {reason}")
