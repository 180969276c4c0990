"""The subcommand `check`: what is wrong between a deployed server and its clients."""

import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode, urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection
from websockets.typing import Origin

from .errors import MEANINGS, CloseCode
from .talk import TalkError, open_connection, printable

FOREIGN = "https://foreign.example"
"""An origin that nobody allows."""
SECONDS = 10.0
"""Seconds to wait for an answer."""
RETURNS = 4
"""How often to come back to a room: behind a load balancer, to several processes."""
RESTART_SECONDS = 120.0
"""Seconds for the operator to restart the server, and then for the server to come back."""

UPGRADE = "the proxy must pass the upgrade on; nginx: proxy_http_version 1.1, and the headers Upgrade and Connection"
ADVICE = {
    200: UPGRADE,
    400: UPGRADE,
    401: "it needs a valid token: --token, or APP_TOKEN",
    403: "the server sees another Host or scheme than browsers do: the proxy must pass Host and "
    "X-Forwarded-Proto, and be in APP_TRUSTED_PROXIES; or a policy forbids it",
    404: f"there is no such endpoint; or {UPGRADE}",
    405: UPGRADE,
    426: UPGRADE,
    429: "too many connections or joins of one address; if that is the proxy's, name it in APP_TRUSTED_PROXIES",
    502: "the proxy can't reach the server",
    503: "the server is full, stopping, or without Redis: see its log and /readyz",
    504: "the proxy can't reach the server",
    505: UPGRADE,
}
"""What to change, by the status with which a handshake was rejected."""


class Problem(Exception):
    """A check has failed; the text says what to change."""


class Skipped(Exception):
    """A check does not apply; the text says why."""


class ServerCheck:
    """Checks of the server at a URL, from outside, as its clients see it."""

    def __init__(self, url: str, token: str, rooms: str, show: Callable[[str], None]) -> None:
        """`rooms` is the path of the rooms, if there are any. `show` is called with each line."""
        self.url = url
        self.token = token
        self.show = show
        self.problems = 0
        base, found, _ = url.partition(rooms) if rooms else ("", "", "")
        self.room = f"{base}{rooms}/check-{secrets.token_hex(8)}" if found else ""
        """A room of its own, where nobody else speaks, if the URL is that of a room."""

    def run(self, silence: float, restart: bool) -> int:
        """Do all checks; return the number of problems.

        `silence` is the number of seconds for which a connection is left alone. `restart` says
        whether the operator restarts the server meanwhile.
        """
        self.report("handshake", self.check_handshake)
        if not self.problems:
            self.report("foreign origin", self.check_origin)
            self.report("resume", self.check_resume)
            self.report("silence", lambda: self.check_silence(silence))
            if restart:
                self.report("restart", self.check_restart)
        return self.problems

    def report(self, name: str, check: Callable[[], str]) -> None:
        """Do one check, and show its result."""
        try:
            line = f"ok       {name}: {check()}"
        except Skipped as reason:
            line = f"skipped  {name}: {reason}"
        except (Problem, TalkError, OSError, ValueError, WebSocketException) as error:
            self.problems += 1
            line = f"PROBLEM  {name}: {explain(error)}"
        self.show(line)

    def open(self, origin: str = "", url: str = "", **query: str) -> ClientConnection:
        """Connect as a page does, of the server's own origin if no other is given."""
        url = url or self.url
        if query:
            url += f"{'&' if '?' in url else '?'}{urlencode(query)}"
        parts = urlsplit(url)
        own = f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc.rpartition('@')[2]}"
        options: dict[str, Any] = {"open_timeout": SECONDS, "close_timeout": 1}
        return open_connection(url, self.token, True, origin=Origin(origin or own), **options)

    def open_silent(self) -> ClientConnection:
        """Connect where nobody speaks, if that is allowed."""
        with suppress(InvalidStatus):
            return self.open(url=self.room, name="check-0")
        return self.open()

    def check_handshake(self) -> str:
        """The server answers with 101."""
        began = time.monotonic()
        with self.open():
            return f"101 after {(time.monotonic() - began) * 1000:.0f} ms"

    def check_origin(self) -> str:
        """A page of another origin is refused."""
        try:
            with self.open(origin=FOREIGN):
                raise Problem(
                    "any web page may connect, with the cookies of who looks at it; name the "
                    "allowed origins in APP_ALLOWED_ORIGINS, and let no proxy change Origin"
                )
        except InvalidStatus as error:
            if error.response.status_code != 403:
                raise Problem(f"answered with {error.response.status_code}, not 403") from None
            return "refused with 403"

    def check_resume(self) -> str:
        """What is said while a member is away reaches it on its return, whoever serves it."""
        if not self.room:
            raise Skipped("this is not the URL of a room")
        try:
            with self.open(url=self.room, name="check-1") as first:
                position = str(receive_event(first, "joined").get("id"))
            with self.open(url=self.room, name="check-2") as other:
                receive_event(other, "joined")
                other.send('{"type": "message", "data": "check", "ref": "check"}')
                sent = receive_event(other, "accepted").get("id")
        except InvalidStatus as error:
            status = error.response.status_code
            if status == 429 or status >= 500:
                raise
            raise Skipped(f"{status}; it needs a token that opens the rooms check-*") from None
        for _ in range(RETURNS):
            with self.open(url=self.room, name="check-1", since=position) as back:
                event = receive_event(back, "message", "gap", "resumed")
                if event.get("id") != sent:
                    raise Problem(
                        "a message is missing: several processes have rooms of their own; "
                        "use Redis (APP_BROKER_URL), or one process"
                    )
        return f"what was missed arrived, {RETURNS} times of {RETURNS}"

    def check_silence(self, seconds: float) -> str:
        """A connection on which nobody says anything stays open; pings are answered."""
        try:
            with self.open_silent() as silent:
                self.show(f"...      {seconds:g} seconds of silence")
                end = time.monotonic() + seconds
                while (left := end - time.monotonic()) > 0:
                    with suppress(TimeoutError):
                        silent.recv(timeout=left)  # presence, or what others say
                if not silent.ping().wait(SECONDS):
                    raise Problem(f"no answer to a ping in {SECONDS:g} seconds")
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else CloseCode.ABNORMAL
            if code == CloseCode.ABNORMAL:
                raise Problem(
                    "closed with 1006; something on the way ends silent connections: its timeout "
                    "must be longer than the 20 seconds between two pings of the server"
                ) from None
            meaning = MEANINGS.get(code, "a code of the endpoint's own")
            raise Problem(f"closed with {code}: {meaning}") from None
        return f"open after {seconds:g} seconds, and a ping was answered"

    def check_restart(self) -> str:
        """A server that stops says 1012, and comes back."""
        with self.open() as websocket:
            self.show(f"...      restart the server now, within {RESTART_SECONDS:g} seconds")
            end = time.monotonic() + RESTART_SECONDS
            try:
                while True:
                    websocket.recv(timeout=max(0, end - time.monotonic()))
            except TimeoutError:
                raise Skipped("the server was not restarted") from None
            except ConnectionClosed:
                code = websocket.close_code
        if code != CloseCode.SERVICE_RESTART:
            raise Problem(
                f"closed with {code}, not 1012: SIGTERM must reach the server itself, and it "
                "needs longer than APP_DRAIN_SECONDS before it is killed"
            )
        began = time.monotonic()
        while time.monotonic() < began + RESTART_SECONDS:
            try:
                with self.open():
                    return f"closed with 1012, and back after {time.monotonic() - began:.1f} s"
            except (OSError, WebSocketException):
                time.sleep(0.1)
        raise Problem(f"not back after {RESTART_SECONDS:g} seconds")


def explain(error: Exception) -> str:
    """Return why a check failed, without what would control a terminal."""
    if isinstance(error, InvalidStatus):
        status, body = error.response.status_code, (error.response.body or b"")[:200]
        return f"{status}: {ADVICE.get(status) or printable(body.decode(errors='replace'))}"
    if isinstance(error, Problem | TalkError):
        return str(error)
    return f"{type(error).__name__}: {printable(str(error))}"


def receive_event(websocket: ClientConnection, *types: str) -> dict[str, Any]:
    """Return the next event of one of these types; raises `Problem` for an error."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            event = json.loads(websocket.recv(timeout=max(0, end - time.monotonic())))
        except TimeoutError:
            raise Problem(f"no {' or '.join(types)} after {SECONDS:g} seconds") from None
        if not isinstance(event, dict) or event.get("type") == "error":
            raise Problem(f"the server sent {printable(str(event))}")
        if event.get("type") in types:
            return event
