"""Downloads keys from a URL, with limits on time and size."""

import re
import socket
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from threading import Timer
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import (
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    ProxyHandler,
    Request,
    build_opener,
    getproxies,
)

from .keys import MAX_KEY_BYTES

TIMEOUT = 5.0
"""Maximum seconds of a download, from connecting to the last byte."""
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class AnyStatus(HTTPErrorProcessor):
    """Returns every response unchanged, so that redirects are not followed."""

    def http_response(self, request: Any, response: Any) -> Any:
        """Return the response."""
        return response

    https_response = http_response


class Deadline:
    """Shuts connections down after some seconds; the `with` block then raises `TimeoutError`.

    A socket's timeout is not enough: it starts again with each byte.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends_at = time.monotonic() + seconds
        self._opened: list[socket.socket] = []
        self._timer = Timer(seconds, self._shut_down)
        self._timer.daemon = True  # so that the process can exit

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        for opened in self._opened:
            opened.close()
        if self._is_over():
            raise TimeoutError

    def connect(self, address: tuple[str, int], timeout: float, source: Any) -> socket.socket:
        """Return a connection, like `socket.create_connection`."""
        addresses = len(socket.getaddrinfo(*address, type=socket.SOCK_STREAM))
        share = self._seconds / (addresses + 1)  # one share is for the response
        opened = socket.create_connection(address, share, source)
        opened.settimeout(timeout)
        self._opened.append(opened.dup())  # TLS detaches the socket itself
        if self._is_over():  # resolving the name took too long
            self._shut_down()
        return opened

    def _is_over(self) -> bool:
        return time.monotonic() >= self._ends_at

    def _shut_down(self) -> None:
        for opened in self._opened:
            with suppress(OSError):  # it may be closed already
                opened.shutdown(socket.SHUT_RDWR)


class DeadlineHandler(HTTPHandler, HTTPSHandler):
    """Opens connections with a deadline that also covers proxy and TLS handshakes."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: Any) -> Any:
        """Open an `http://` URL."""
        return self._open(HTTPConnection, req)

    def https_open(self, req: Any) -> Any:
        """Open an `https://` URL."""
        return self._open(HTTPSConnection, req)

    def _open(self, kind: Any, request: Any) -> Any:
        def make_connection(host: str, **options: Any) -> Any:
            connection = kind(host, **options)
            connection._create_connection = self._deadline.connect
            return connection

        return self.do_open(make_connection, request)


def is_url(text: str) -> bool:
    """Return whether a text starts like an HTTP URL."""
    return re.match("https?://", text, re.IGNORECASE) is not None


def check_url(url: str) -> None:
    """Raise a `ValueError` for an invalid URL, or for `http://` to another machine."""
    try:
        parts = urlsplit(url)
        is_well_formed = bool(re.fullmatch("[!-~]+", url) and parts.hostname and parts.port != 0)
    except ValueError:
        is_well_formed = False
    if not is_well_formed or "@" in parts.netloc:
        raise ValueError("this is not a URL like https://login.example.com/jwks.json")
    if parts.scheme != "https" and parts.hostname not in THIS_MACHINE:
        raise ValueError("keys are read from https:// URLs; http:// is for this machine alone")


def fetch(url: str) -> str:
    """Return the text at a URL. Raises `OSError`, `http.client.HTTPException` or `ValueError`.

    Blocks for up to `TIMEOUT` seconds. Resolving the name can take longer; it can't be
    interrupted.
    """
    # A proxy could read and change plain HTTP.
    proxies = {scheme: proxy for scheme, proxy in getproxies().items() if scheme == "https"}
    # Some providers reject urllib's default User-Agent.
    headers = {"Accept": "application/json", "User-Agent": __name__.partition(".")[0]}
    request = Request(url, headers=headers)
    with Deadline(TIMEOUT) as deadline:
        opener = build_opener(AnyStatus, ProxyHandler(proxies), DeadlineHandler(deadline))
        with opener.open(request, timeout=TIMEOUT) as response:
            return read_text(response)


def read_text(response: HTTPResponse) -> str:
    """Return the body of a response; raise a `ValueError` if it is not a 200, or too large."""
    if response.status != 200:
        raise ValueError(f"the answer has status {response.status}")
    content = response.read(MAX_KEY_BYTES + 1)
    if len(content) > MAX_KEY_BYTES:
        raise ValueError(f"the answer has more than {MAX_KEY_BYTES} bytes")
    return content.decode("utf-8")
