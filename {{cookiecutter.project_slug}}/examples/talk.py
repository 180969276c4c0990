"""Send each line that you type to an endpoint, and print what arrives.

uv run python examples/talk.py ws://127.0.0.1:8000/ws
"""

import argparse
{% if cookiecutter.include_broadcast %}
import json
{% endif %}
import os
import sys
import threading
import time
from contextlib import suppress

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect
{% if cookiecutter.include_broadcast %}
from websockets.typing import Subprotocol
{% endif %}

ANSWER_SECONDS = 1.0
"""Seconds to wait for answers at the end of the input."""


def print_messages(websocket: ClientConnection) -> None:
    """Print messages until the connection is closed, then end the program."""
    with suppress(ConnectionClosed):
        while True:
            message = websocket.recv()
            is_plain = isinstance(message, str) and message.isprintable()
            print("<", message if is_plain else repr(message), flush=True)
    print(f"closed: {websocket.close_code} {websocket.close_reason}".rstrip(), flush=True)
    is_expected = websocket.close_code in (1000, 1001, 1012)
    os._exit(not is_expected)  # the main thread may be waiting for input, which nothing else ends


def send_lines(websocket: ClientConnection) -> None:
    """Send each line of the input as a message."""
    for line in sys.stdin.buffer:
        message = line.decode(errors="replace").rstrip("\r\n")
{% if cookiecutter.include_broadcast %}
        if websocket.subprotocol == "events.v1":
            message = json.dumps({"type": "message", "data": message})
{% endif %}
        websocket.send(message)
    time.sleep(ANSWER_SECONDS)


def main() -> None:
    """Talk until Ctrl-C, the end of the input, or a close by the server."""
    parser = argparse.ArgumentParser(description="Send lines to an endpoint, print what arrives.")
    parser.add_argument("url", help="for example ws://127.0.0.1:8000/ws")
{% if cookiecutter.auth == "jwt" %}
    parser.add_argument("--token", default=os.environ.get("APP_TOKEN", ""), help="or set APP_TOKEN")
{% endif %}
{% if cookiecutter.include_broadcast %}
    parser.add_argument("--events", action="store_true", help="use the subprotocol events.v1")
{% endif %}
    arguments = parser.parse_args()
    try:
        with connect(
            arguments.url,
            max_size=None,
{% if cookiecutter.auth == "jwt" %}
            additional_headers={"Authorization": f"Bearer {arguments.token}"},
{% endif %}
{% if cookiecutter.include_broadcast %}
            subprotocols=[Subprotocol("events.v1")] if arguments.events else None,
{% endif %}
        ) as websocket:
            printing = threading.Thread(target=print_messages, args=[websocket])
            printing.start()
            with suppress(ConnectionClosed, KeyboardInterrupt):
                send_lines(websocket)
        printing.join()
    except InvalidStatus as error:
        body = (error.response.body or b"").decode(errors="replace")
        sys.exit(f"refused: {error.response.status_code} {body}")
    except (OSError, WebSocketException) as error:
        sys.exit(f"no connection: {error}")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
