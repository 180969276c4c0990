"""The subcommand `talk`: send lines to an endpoint, and print what arrives."""

import json
import os
import sys
import threading
import time
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

ANSWER_SECONDS = 1.0
"""Seconds to wait for answers at the end of the input."""


class TalkError(Exception):
    """A connection could not be opened; the text says why."""


def open_connection(
    url: str, token: str = "", events: bool = False, **options: Any
) -> ClientConnection:
    """Open a connection, with a token if there is one; offer `events.v1` for `events`.

    Raises `TalkError` for a token that others could read on its way, and for a URL that is none;
    whatever `websockets` raises, too.
    """
    if token and not is_secret(url):
        raise TalkError(f"{url}: anybody on the way could read the token; use wss://")
    if token:
        options["additional_headers"] = {"Authorization": f"Bearer {token}"}
    if events:
        options["subprotocols"] = [Subprotocol("events.v1")]
    if is_local(url):  # a proxy would look for the server on its own machine
        options["proxy"] = None
    try:
        return connect(url, max_size=None, **options)
    except ImportError as error:  # of what a SOCKS proxy needs
        raise TalkError(str(error)) from None


def is_local(url: str) -> bool:
    """Return whether the server of a URL is on this machine."""
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def is_secret(url: str) -> bool:
    """Return whether nobody between here and the server can read what is sent."""
    return urlsplit(url).scheme == "wss" or is_local(url)


def printable(text: str) -> str:
    """Return a text of a server without what would control a terminal."""
    return text if text.isprintable() else repr(text)


def talk(url: str, token: str = "", events: bool = False) -> None:
    """Talk until Ctrl-C, the end of the input, or a close by the server; raises `TalkError`.

    The exit status is 1 after another close code than 1000, 1001 and 1012.
    """
    try:
        with open_connection(url, token, events) as websocket:
            printing = threading.Thread(target=print_messages, args=[websocket])
            printing.start()
            with suppress(ConnectionClosed, KeyboardInterrupt):
                send_lines(websocket)
        printing.join()
    except KeyboardInterrupt:
        pass
    except InvalidStatus as error:
        body = printable((error.response.body or b"").decode(errors="replace"))
        raise TalkError(f"refused: {error.response.status_code} {body}") from None
    except (OSError, ValueError, WebSocketException) as error:
        raise TalkError(f"no connection to {url}: {printable(str(error))}") from None


def print_messages(websocket: ClientConnection) -> None:
    """Print messages until the connection is closed, then end the program."""
    is_expected = True
    with suppress(BrokenPipeError):  # nobody reads what is printed
        with suppress(ConnectionClosed):
            while True:
                message = websocket.recv()
                is_text = isinstance(message, str)
                print("<", printable(message) if is_text else repr(message), flush=True)
        is_expected = websocket.close_code in (1000, 1001, 1012)
        reason = printable(websocket.close_reason or "")
        print(f"closed: {websocket.close_code} {reason}".rstrip(), flush=True)
    os._exit(not is_expected)  # the main thread may be waiting for input, which nothing else ends


def send_lines(websocket: ClientConnection) -> None:
    """Send each line of the input as a message."""
    for line in sys.stdin.buffer:
        message = line.decode(errors="replace").rstrip("\r\n")
        if websocket.subprotocol:
            message = json.dumps({"type": "message", "data": message})
        websocket.send(message)
    time.sleep(ANSWER_SECONDS)
