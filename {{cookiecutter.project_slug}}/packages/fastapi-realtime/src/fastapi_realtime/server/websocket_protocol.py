"""The WebSocket protocol of the server: uvicorn's, with less memory, turns and limits."""

import asyncio
import logging
import random
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

from ..close_codes import CloseCode
from .fast_path import HIGH_WATER
from .frames import (
    CLOSE,
    PING,
    PONG,
    control_frame,
    frame_size,
    has_minimal_length,
    read_control,
    read_message,
)
from .inbox import Inbox
from .logging import address_of, connection_fields, refusals
from .metrics import STATUS, refused
from .upgrade import Handshake, answer, refusal
from .uvicorn_internals import (
    ASGIReceiveEvent,
    ASGISendEvent,
    ClientDisconnected,
    Config,
    HttpToolsProtocol,
    ServerState,
    WebSocketAcceptEvent,
    WebSocketScope,
    WebSocketsSansIOProtocol,
)
from .websockets_internals import OPEN, Close, Frame, Opcode, Request, ServerProtocol
from .write_deadline import WriteDeadline

WRITABLE = asyncio.Event()
"""Shared by all connections whose write buffer is not full."""
WRITABLE.set()
FRAMES_PER_TURN = 64
"""Frames of one client to parse before other tasks run; a read can have 40,000 small ones."""
MAX_BYTES_AFTER_CLOSE = 262_144
"""Maximum bytes to parse after a close frame was sent, for the client's own; the rest is discarded."""
MAX_DISCARDED_BYTES = 16_777_216
"""Maximum bytes to discard; then reading stops."""
DISCARD_SECONDS = 2.0
"""Seconds for the client to read the close frame and close; then the connection is dropped."""
TURNS_AT_END = 16
"""Maximum turns to parse remaining data when the connection is lost."""
MIN_FRAGMENTS = 1024
"""Fragments that any message may have; they can be empty, so a limit on size is not enough."""
BYTES_PER_FRAGMENT = 1024
"""If `max_message_bytes` allows more, one fragment per this many bytes; above, 1009."""
CONTROL_FRAMES_PER_SECOND = 100
"""Pings and pongs that a client may send; above, it is dropped."""
NO_HANDSHAKE = "not a WebSocket handshake"


class LimitedWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, with less memory per connection, turns, and more limits.

    Usual frames are parsed here, others by a parser of `websockets` that is made when it is
    needed. A few frames are parsed, then other tasks run: data is kept in `unparsed`, and reading
    is paused, until the handshake has been answered, the inbox is empty and others have run.

    A process holds thousands of these, so defaults are class attributes.
    """

    queue: Any
    logger = logging.getLogger("uvicorn.error")
    handshake_initiated = handshake_complete = close_sent = disconnected = read_paused = False
    close_timer = ping_timer = pong_timer = pending_ping_payload = initial_response = None
    close_timeout = 10.0
    ping_sent_at = last_ping_rtt = 0.0
    curr_msg_data_type = "bytes"
    writable = WRITABLE
    parser: ServerProtocol | None = None
    accept: bytes | None = None  # Sec-WebSocket-Accept; None if uvicorn parsed the handshake
    unparsed: bytes | bytearray = b""
    frame_bytes_left = 0  # bytes of the current frame that the parser has not seen
    turn: asyncio.Handle | None = None
    close_reply = b""  # reply to the client's close frame, sent once its messages have been read
    is_discarding = False  # data of the client is ignored, until it ends
    bytes_after_close = 0
    control_frames = 0
    second = 0
    write_deadline: WriteDeadline | None = None

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

    def handshake_received(self, head: bytes) -> None:
        """Parse a handshake with `websockets`, and reject valid HTTP that is none with 400.

        uvicorn would wait forever.
        """
        super().data_received(head)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self.handshake_complete = self.close_sent = True
            bad_request = refusal(HTTPStatus.BAD_REQUEST, NO_HANDSHAKE)
            response = b"".join(self.conn.data_to_send()) or bad_request
            self.transport.write(response)
            self.transport.close()
            self.after_rejection(int(response[9:12]))

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code != 101:
            self.after_rejection(self.response.status_code)

    def after_rejection(self, status: int) -> None:
        """Log and count a handshake rejected before the application has seen it."""
        self.log("refused", status=status, reason=NO_HANDSHAKE)
        refused.add(1, {STATUS: status})
        self.start_write_deadline()

    async def send_101(self, message: WebSocketAcceptEvent) -> None:
        """Write the response with status 101."""
        await self.writable.wait()
        if self.disconnected:
            raise ClientDisconnected
        if self.transport.is_closing():
            return
        headers = [*self.default_headers, *message.get("headers", [])]
        if subprotocol := message.get("subprotocol"):
            headers.append((b"Sec-WebSocket-Protocol", subprotocol.encode()))
        self.transport.write(answer(self.accept or b"", headers))
        self.accept, self.handshake_complete = b"", True
        self.start_keepalive()

    def start_keepalive(self) -> None:
        """Start pings and parsing after the handshake; free 3 KiB if uvicorn has answered it."""
        super().start_keepalive()
        if self.parser is not None:
            del self.request, self.response
        if self.unparsed:
            self.schedule_turn()

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            self.handshake_received(data)
            return
        if self.close_sent or self.close_reply:
            self.bytes_after_close += len(data)
            if self.bytes_after_close > MAX_BYTES_AFTER_CLOSE:
                self.discard()
            if self.is_discarding or self.transport.is_closing() or self.close_reply:
                return
        if self.unparsed:
            self.unparsed = self.unparsed + data
        else:
            self.unparsed = data[self.handle_common_frames(data) :]
        if self.unparsed and self.turn is None:
            self.run_turn()

    def run_turn(self) -> None:
        """Parse some frames; schedule another turn if there are more, else resume reading."""
        self.turn = None
        if not self.read_paused:
            self.pop_unparsed(self.handle_common_frames(self.unparsed))
        if self.can_parse() and not self.read_paused:
            self.parse_frames()
        if self.transport.is_closing():
            return
        if self.can_parse() or not self.handshake_complete:
            self.transport.pause_reading()
            if self.handshake_complete and not self.read_paused:
                self.schedule_turn()
        elif not self.read_paused:
            self.transport.resume_reading()

    def schedule_turn(self) -> None:
        """Schedule a turn, after other tasks have run."""
        if self.turn is None:
            self.turn = self.loop.call_soon(self.run_turn)

    def can_parse(self) -> bool:
        """Return whether there is a frame, or a part of one, that can be parsed now."""
        if not self.unparsed or not self.handshake_complete or self.has_ended:
            return False
        return self.frame_bytes_left > 0 or frame_size(self.unparsed, 0) is not None

    def handle_common_frames(self, data: bytes | bytearray) -> int:
        """Handle common messages and control frames at the start of `data`.

        Returns the position of the rest, which the parser of `websockets` has to parse.
        """
        start, limit = 0, self.config.ws_max_size
        if not self.is_open or self.frame_bytes_left or self.frames:
            return start
        while not self.read_paused:
            if found := read_message(data, start, limit):
                message, size, start = found
                self.put(message, size)
            elif control := read_control(data, start):
                opcode, payload, end = control
                self.handle_control_frame(opcode, payload)
                start = len(data) if self.transport.is_closing() or self.close_reply else end
            else:
                break
        return start

    def parse_frames(self) -> None:
        """Parse up to `FRAMES_PER_TURN` frames; the last one may be incomplete."""
        end = self.frame_bytes_left
        is_invalid = False
        for _ in range(FRAMES_PER_TURN):
            size = frame_size(self.unparsed, end)
            is_invalid = size is not None and not has_minimal_length(self.unparsed, end)
            if size is None or is_invalid:
                break
            end += size
        self.frame_bytes_left = max(0, end - len(self.unparsed))
        self.parse(self.pop_unparsed(end))
        if is_invalid and self.is_open:
            self.fail(CloseCode.PROTOCOL_ERROR, "the length of a frame is not minimal")

    def parse(self, data: bytes | bytearray) -> None:
        """Parse data; events before an error are handled, too."""
        self.conn.receive_data(data)
        self.handle_events()
        if self.conn.parser_exc is not None:
            self.handle_parser_exception()

    def pop_unparsed(self, size: int) -> bytes | bytearray:
        """Remove and return up to `size` bytes of `unparsed`."""
        data, self.unparsed = self.unparsed, b""
        if size < len(data):
            self.unparsed = bytearray(data) if isinstance(data, bytes) else data
            data = data[:size]
            del self.unparsed[:size]
        return data

    def put(self, message: str | bytes, size: int) -> None:
        """Put a message into the inbox; pause reading if it is full."""
        self.inbox.put(message, size)
        if self.inbox.is_full and not self.read_paused and not self.transport.is_closing():
            self.read_paused = True
            self.transport.pause_reading()

    def on_inbox_empty(self) -> None:
        """Resume parsing and reading, or end if the client has closed."""
        if self.close_reply:
            self.end()
        if not self.read_paused:
            return
        self.read_paused = False
        if self.unparsed:
            self.schedule_turn()
        elif not self.transport.is_closing():
            self.transport.resume_reading()

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next message or disconnect, as an ASGI event."""
        message, _ = await self.inbox.get()
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        if isinstance(message, bytes):
            return {"type": "websocket.receive", "bytes": message}
        return cast(ASGIReceiveEvent, message)

    def send_receive_event_to_app(self) -> None:
        """Put a complete message into the inbox; invalid UTF-8 closes with 1007."""
        data, self.frames = b"".join(self.frames), []
        if self.close_sent:
            return
        try:
            self.put(data.decode() if self.curr_msg_data_type == "text" else data, len(data))
        except UnicodeDecodeError:
            self.fail(CloseCode.INVALID_DATA, "invalid UTF-8")

    def handle_cont(self, event: Frame) -> None:
        """Add a fragment; close with 1009 if there are too many."""
        if self.close_sent:
            return
        super().handle_cont(event)
        if len(self.frames) > max(MIN_FRAGMENTS, self.config.ws_max_size // BYTES_PER_FRAGMENT):
            self.frames = []
            self.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")

    def handle_control_frame(self, opcode: int, payload: bytes) -> None:
        """Handle a valid ping, pong or close frame while the connection is open."""
        if opcode == PONG:
            self.handle_pong(Frame(Opcode.PONG, payload))
        elif opcode == PING:
            self.answer_ping(payload)
        else:
            self.answer_close(payload)

    def handle_ping(self) -> None:
        """Send the parser's pongs, if `may_answer_ping`; keep its other frames."""
        made, pong = self.conn.data_to_send(), bytes([PONG])
        self.conn.writes = [each for each in made if each[:1] != pong]
        if self.may_answer_ping():
            self.transport.write(b"".join(each for each in made if each[:1] == pong))

    def answer_ping(self, payload: bytes) -> None:
        """Send a pong, if `may_answer_ping`."""
        if self.may_answer_ping():
            self.transport.write(control_frame(PONG, payload))

    def may_answer_ping(self) -> bool:
        """Count a ping; return `False` for a flood, or if the client reads too slowly."""
        if self.is_flooded() or self.transport.is_closing():
            return False
        return self.transport.get_write_buffer_size() < HIGH_WATER

    def handle_pong(self, event: Frame) -> None:
        """Handle a pong, unless there are too many."""
        if not self.is_flooded():
            super().handle_pong(event)

    def is_flooded(self) -> bool:
        """Count a control frame; drop the connection and return `True` if there are too many."""
        second = int(self.loop.time())
        self.control_frames = self.control_frames + 1 if second == self.second else 1
        self.second = second
        if self.control_frames <= CONTROL_FRAMES_PER_SECOND:
            return False
        if not self.transport.is_closing():
            self.log("dropped", reason="too many pings or pongs")
        self.transport.abort()
        return True

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

    def keepalive_timeout(self) -> None:
        """Close after a missed pong; drop the connection if data is unsent."""
        self.stop_keepalive()
        if self.is_open:
            self.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    async def send(self, message: ASGISendEvent) -> None:
        """Send; a handshake that the HTTP protocol has parsed is not answered by uvicorn.

        After a close, end if the client has closed, else parse on to its close frame.
        """
        if self.accept and self.initial_response is None and message["type"] == "websocket.accept":
            await self.send_101(message)
            return
        is_end = bool(self.close_reply) and message["type"] == "websocket.close"
        if is_end:
            self.stop_close_timer()
        try:
            await super().send(message)
        finally:
            if is_end:
                self.end()
        if self.close_sent and self.unparsed:
            self.schedule_turn()

    def pause_writing(self) -> None:
        """Make senders wait until the write buffer has room."""
        self.writable = asyncio.Event()

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

    def end(self) -> None:
        """Reply with the close frame, unless one was sent, and close the transport."""
        self.stop_close_timer()
        if not self.close_sent and not self.transport.is_closing():
            self.transport.write(self.close_reply)
        self.close_reply = b""
        self.close_sent = self.disconnected = True
        self.inbox.end()
        self.transport.close()

    def stop_close_timer(self) -> None:
        """Stop the timer that sends the close frame."""
        if self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = None

    def fail(self, code: int, reason: str) -> None:
        """Close because of an invalid message, and ignore what follows.

        The parser may already have parsed that, and even replied to a close frame.
        """
        event = {"type": "websocket.disconnect", "code": int(code), "reason": reason}
        self.inbox.put_nowait(event)
        self.transport.write(control_frame(CLOSE, Close(code, reason).serialize()))
        self.close_sent = True
        self.log("closed", code=code, reason=reason)
        self.discard()

    def handle_parser_exception(self) -> None:
        """Close after a protocol error, unless a close frame was sent; ignore what follows."""
        close = self.conn.close_sent
        if close is None or self.transport.is_closing():
            return
        if self.close_sent:
            self.discard()
        else:
            self.fail(close.code, close.reason)

    def discard(self) -> None:
        """Read on without parsing, so that the client gets the close frame (RFC 6455 §7.1.1).

        To close with data unread would reset the connection, and destroy the frame on its way.
        The client sees the end of the stream at once, and has `DISCARD_SECONDS` to close. After
        `MAX_DISCARDED_BYTES`, no more is read.
        """
        if self.close_reply:  # the client has closed, and must not send more
            self.transport.abort()
        if self.bytes_after_close > MAX_DISCARDED_BYTES:
            self.transport.pause_reading()
        if self.is_discarding or self.transport.is_closing():
            return
        self.is_discarding = self.disconnected = True
        self.unparsed = b""
        self.inbox.end()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()
        self.stop_close_timer()
        self.close_timer = self.loop.call_later(DISCARD_SECONDS, self.transport.abort)

    def shutdown(self) -> None:
        """Close the connection at shutdown."""
        if self.close_reply:
            self.end()
        super().shutdown()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Limit the time to send what is left when the application has returned."""
        super().on_task_complete(task)
        if self.close_reply:
            self.end()
        self.start_write_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Parse what remains, up to `TURNS_AT_END` turns.

        The code is 1006, unless one side has sent a close frame.
        """
        if self.write_deadline is not None:
            self.write_deadline.stop()
        for _ in range(TURNS_AT_END):
            if self.can_parse() and not self.close_sent:
                self.parse_frames()
        self.unparsed = b""
        self.handshake_complete = False  # else uvicorn reports 1005: an empty close frame
        super().connection_lost(exc)
        self.inbox.detach()

    def start_write_deadline(self) -> None:
        """Start to check that the client reads unsent data, if there is any."""
        if self.transport.get_write_buffer_size() and self.write_deadline is None:
            self.write_deadline = WriteDeadline(self.transport, self.stop_writing)
            self.write_deadline.start()

    def stop_writing(self) -> None:
        """Drop the connection of a client that has stopped reading."""
        self.log("dropped", reason="it stopped reading")
        self.transport.abort()

    def log(self, message: str, **fields: object) -> None:
        """Log a warning about this connection."""
        scope = getattr(self, "scope", None)
        client = connection_fields(scope) if scope else {"client": address_of(self.client)}
        refusals.warning(message, extra={**client, **fields})
