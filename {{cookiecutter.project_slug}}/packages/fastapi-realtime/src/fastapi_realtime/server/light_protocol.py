"""uvicorn's WebSocket protocol, with less memory per connection."""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from .frames import CLOSE, PING, PONG, control_frame
from .inbox import Inbox
from .upgrade import Handshake, answer
from .uvicorn_internals import (
    ASGISendEvent,
    ClientDisconnected,
    Config,
    HttpToolsProtocol,
    ServerState,
    WebSocketAcceptEvent,
    WebSocketScope,
    WebSocketsSansIOProtocol,
)
from .websockets_internals import OPEN, Close, Frame, Opcode, ServerProtocol

WRITABLE = asyncio.Event()
"""Shared by all connections whose write buffer is not full."""
WRITABLE.set()


class LightWebSocketProtocol(WebSocketsSansIOProtocol):
    """Accepts a parsed handshake, and creates a `websockets` parser only when it is needed.

    A process holds thousands of these, so defaults are class attributes.
    """

    queue: Any
    on_inbox_empty: Callable[[], None]  # after it was full; defined by a subclass
    logger = logging.getLogger("uvicorn.error")
    handshake_initiated = handshake_complete = close_sent = disconnected = read_paused = False
    close_timer = ping_timer = pong_timer = pending_ping_payload = initial_response = None
    close_timeout = 10.0
    ping_sent_at = last_ping_rtt = 0.0
    curr_msg_data_type = "bytes"
    writable = WRITABLE
    parser: ServerProtocol | None = None
    accept: bytes | None = None  # Sec-WebSocket-Accept; None if uvicorn parsed the handshake
    is_discarding = False  # data of the client is ignored, until it ends
    close_reply = b""  # reply to the client's close frame, sent once its messages have been read

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Set the attributes that uvicorn sets, except class attributes and the parser."""
        self.config = config
        self.app = config.loaded_app
        self.loop = _loop or asyncio.get_running_loop()
        self.root_path = config.root_path
        self.asgi_version = config.asgi_version
        self.app_state = app_state
        self.server_state = server_state
        self.connections = server_state.connections
        self.tasks = server_state.tasks
        self.default_headers = server_state.default_headers
        self.ping_interval = config.ws_ping_interval
        self.ping_timeout = config.ws_ping_timeout
        self.frames: list[bytes] = []
        self.inbox = self.queue = Inbox(self.on_inbox_empty)

    @property
    def conn(self) -> ServerProtocol:
        """The `websockets` parser, for all but common handshakes and frames; made on first use."""
        if self.parser is None and self.accept is not None:
            size = self.config.ws_max_size
            self.parser = ServerProtocol(state=OPEN, max_size=size, logger=self.logger)
        elif self.parser is None:
            arguments = self.config, self.server_state, self.app_state, self.loop
            self.parser = WebSocketsSansIOProtocol(*arguments).conn
        return self.parser

    @property
    def is_open(self) -> bool:
        """Whether the handshake has been answered with 101, and neither side has closed."""
        if not self.handshake_complete or self.close_sent or self.close_reply:
            return False
        return self.parser is None or self.parser.state is OPEN

    @property
    def has_ended(self) -> bool:
        """Whether further data is ignored."""
        if self.disconnected or self.close_reply:
            return True
        return self.parser is not None and self.parser.eof_sent

    def start_from_handshake(self, http: HttpToolsProtocol, handshake: Handshake) -> None:
        """Start from a handshake that the HTTP protocol has parsed, and run the application."""
        self.transport = http.transport
        self.server, self.client = http.server, http.client
        self.scheme = "wss" if http.scheme == "https" else "ws"
        self.connections.add(self)
        self.accept, self.handshake_initiated = handshake.accept, True
        path, _, query = handshake.target.partition("?")
        self.scope: WebSocketScope = {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": self.scheme,
            "server": self.server,
            "client": self.client,
            "root_path": self.root_path,
            "path": self.root_path + unquote(path),
            "raw_path": self.root_path.encode("ascii") + path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "headers": handshake.headers,
            "subprotocols": handshake.subprotocols,
            "state": self.app_state.copy(),
            "extensions": {"websocket.http.response": {}},
        }
        self.inbox.put_nowait({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        task.add_done_callback(self.on_task_complete)
        self.tasks.add(task)

    def connection_lost(self, exc: Exception | None) -> None:
        """End with 1006, unless one side has sent a close frame; break reference cycles."""
        self.handshake_complete = False  # else uvicorn reports 1005: an empty close frame
        super().connection_lost(exc)
        self.inbox.detach()

    async def send(self, message: ASGISendEvent) -> None:
        """Accept a handshake that the HTTP protocol has parsed; leave all else to uvicorn."""
        is_unanswered = self.accept and self.initial_response is None
        if not is_unanswered or message["type"] != "websocket.accept":
            await super().send(message)
            return
        await self.writable.wait()
        if self.disconnected:
            raise ClientDisconnected
        if not self.transport.is_closing():
            self.send_101(message)

    def send_101(self, message: WebSocketAcceptEvent) -> None:
        """Write the response with status 101."""
        headers = [*self.default_headers, *message.get("headers", [])]
        if subprotocol := message.get("subprotocol"):
            headers.append((b"Sec-WebSocket-Protocol", subprotocol.encode()))
        self.transport.write(answer(self.accept or b"", headers))
        self.accept, self.handshake_complete = b"", True
        self.start_keepalive()

    def start_keepalive(self) -> None:
        """Start keepalive pings; free the 3 KiB of a handshake that uvicorn has answered."""
        super().start_keepalive()
        if self.parser is not None:
            del self.request, self.response

    def pause_writing(self) -> None:
        """Make senders wait until the write buffer has room."""
        self.writable = asyncio.Event()

    def send_keepalive_ping(self) -> None:
        """Send a keepalive ping, and start the timeout for its pong."""
        self.ping_timer = None
        if self.close_sent or self.transport.is_closing():
            return
        self.pending_ping_payload = random.randbytes(4)
        self.ping_sent_at = self.loop.time()
        self.transport.write(control_frame(PING, self.pending_ping_payload))
        if self.ping_timeout is None:
            self.schedule_ping()
        else:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)

    def handle_control_frame(self, opcode: int, payload: bytes) -> None:
        """Handle a valid ping, pong or close frame while the connection is open."""
        if opcode == PONG:
            self.handle_pong(Frame(Opcode.PONG, payload))
        elif opcode == PING:
            self.answer_ping(payload)
        else:
            self.answer_close(payload)

    def answer_ping(self, payload: bytes) -> None:
        """Send a pong."""
        self.transport.write(control_frame(PONG, payload))

    def handle_close(self, event: Frame) -> None:
        """Handle a close frame from the parser; discard the parser's own reply."""
        if self.is_discarding:
            return
        if self.close_sent or self.transport.is_closing():
            super().handle_close(event)
        else:
            self.conn.data_to_send()
            self.answer_close(bytes(event.data))

    def answer_close(self, payload: bytes) -> None:
        """Queue a disconnect event for the application, and reply to the close frame.

        The reply is sent once the application has received all earlier messages, so that it can
        still answer them, or after `close_timeout` seconds.
        """
        close = Close.parse(payload)
        is_waiting = len(self.inbox) > 0
        event = {"type": "websocket.disconnect", "code": close.code, "reason": close.reason}
        self.inbox.put_nowait(event)
        self.close_reply = control_frame(CLOSE, payload)
        if is_waiting:
            self.inbox.is_full = True  # so that `resume` is called once it is empty
            self.close_timer = self.loop.call_later(self.close_timeout, self.end)
            self.inbox.on_leave(True)
        else:
            self.end()

    def stop_close_timer(self) -> None:
        """Stop the timer that sends the close frame."""
        if self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = None

    def shutdown(self) -> None:
        """Close the connection at shutdown."""
        if self.close_reply:
            self.end()
        super().shutdown()

    def end(self) -> None:
        """Reply with the close frame, unless one was sent, and close the transport."""
        self.stop_close_timer()
        if not self.close_sent and not self.transport.is_closing():
            self.transport.write(self.close_reply)
        self.close_reply = b""
        self.close_sent = self.disconnected = True
        self.inbox.end()
        self.transport.close()
