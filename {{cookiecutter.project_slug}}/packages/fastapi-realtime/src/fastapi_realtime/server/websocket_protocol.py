"""The WebSocket protocol of the server: one connection, from its handshake to its end."""

import asyncio
import logging
import random
from collections.abc import Iterable
from functools import partial
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

from starlette.types import Message, Scope
from uvicorn import Config

from ..errors import CloseCode
from .fast_path import HIGH_WATER, MAX_BYTES, Inbox
from .logging import address_of, connection_fields, refusals
from .metrics import STATUS, refused
from .uvicorn_internals import (
    ClientDisconnected,
    Close,
    Request,
    ServerProtocol,
    ServerState,
    get_local_addr,
    get_remote_addr,
    is_ssl,
)
from .wire import (
    CLOSE,
    CONTROL,
    FIN,
    OPCODE,
    PING,
    PONG,
    Handshake,
    Headers,
    InvalidFrame,
    answer,
    control_frame,
    denial,
    read_close,
    read_frame,
    read_message,
    server_frame,
)
from .write_deadline import WriteDeadline

WRITABLE = asyncio.Event()
"""Shared by all connections whose write buffer is not full."""
WRITABLE.set()
FRAMES_PER_TURN = 64
"""Frames of one client to parse before other tasks run; a read can have 40,000 small ones."""
CLOSE_SECONDS = 10.0
"""Seconds for the client to answer a close frame, or for the application to read what is left."""
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
BYTES_PER_FRAGMENT = 64
"""If `max_message_bytes` allows more, one fragment per this many bytes; above, 1009."""
CONTROL_FRAMES_PER_SECOND = 100
"""Pings and pongs that a client may send; above, it is dropped."""
NO_HANDSHAKE = "not a WebSocket handshake"

logger = logging.getLogger("uvicorn.error")


class LimitedWebSocketProtocol(asyncio.Protocol):
    """A WebSocket for uvicorn (RFC 6455), without extensions, with turns and limits.

    Of uvicorn, it needs what every class given as `ws=` gets: the arguments of the constructor,
    and a call of `shutdown`.

    A few frames are parsed, then other tasks run. Data is kept in `unparsed`, and reading is
    paused, until the inbox is empty and others have run; before the handshake has been answered,
    from 64 KiB on.
    """

    # A process holds thousands of these, so defaults are class attributes.
    transport: asyncio.Transport
    scope: Scope | None = None
    client: tuple[str, int] | None = None
    accept = b""  # Sec-WebSocket-Accept
    denial: tuple[int, Headers, bytes] | None = None  # the application's, instead of 101
    handshake_complete = False  # it has been answered
    writable = WRITABLE
    unparsed: bytes | bytearray = b""
    read_paused = False  # the inbox is full
    turn: asyncio.Handle | None = None
    opcode = 0  # of the message whose first fragments have been received
    fragments: list[bytes]
    fragments_size = 0
    ping_payload: bytes | None = None  # of the ping that has not been answered
    ping_timer: asyncio.TimerHandle | None = None  # for the next ping, or the pong
    waiting = 0  # messages in the inbox when that was sent, or last looked at
    control_frames = 0
    second = 0
    close_timer: asyncio.TimerHandle | None = None
    close_sent = False  # or the handshake has been refused: nothing may follow
    close_reply = b""  # reply to the client's close frame, sent once its messages have been read
    bytes_after_close = 0
    is_discarding = False  # data of the client is ignored, until it ends
    disconnected = False  # nothing can be sent, and nothing is read
    write_deadline: WriteDeadline | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()
        self.inbox = Inbox(self.on_inbox_empty)

    # The handshake.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for `start`, or for the head of a handshake that is left to this protocol."""
        self.transport = cast("asyncio.Transport", transport)
        self.client = get_remote_addr(self.transport)
        self.server_state.connections.add(cast("Any", self))

    def read_handshake(self, head: bytes) -> None:
        """Parse an unusual handshake with `websockets`, which says what is wrong with it."""
        parser = ServerProtocol(logger=logging.getLogger(f"{__name__}.handshake"))
        parser.receive_data(head)
        parser.parser.close()  # it refers to itself
        for event in parser.events_received():
            request = cast("Request", event)
            response = parser.accept(request)
            if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
                self.start(handshake_of(request, response))
                return
            parser.send_response(response)
        response = b"".join(parser.data_to_send()) or denial(
            HTTPStatus.BAD_REQUEST, (), NO_HANDSHAKE.encode()
        )
        self.handshake_complete = self.close_sent = self.disconnected = True
        self.transport.write(response)
        self.transport.close()
        status = int(response[9:12])
        self.log("refused", status=status, reason=NO_HANDSHAKE)
        refused.add(1, {STATUS: status})
        self.start_write_deadline()

    def start(self, handshake: Handshake) -> None:
        """Run the application, with a handshake that has been parsed."""
        self.accept = handshake.accept
        root_path = self.config.root_path
        path, _, query = handshake.target.partition("?")
        self.scope = {
            "type": "websocket",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(self.transport) else "ws",
            "server": get_local_addr(self.transport),
            "client": self.client,
            "root_path": root_path,
            "path": root_path + unquote(path),
            "raw_path": (root_path + path).encode("ascii"),
            "query_string": query.encode("ascii"),
            "headers": handshake.headers,
            "subprotocols": handshake.subprotocols,
            "state": self.app_state.copy(),
            "extensions": {"websocket.http.response": {}},
        }
        self.inbox.put({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi(self.scope))
        task.add_done_callback(self.on_task_complete)
        self.server_state.tasks.add(task)

    async def run_asgi(self, scope: Scope) -> None:
        """Run the application, and log its exceptions."""
        app: Any = self.config.loaded_app
        try:
            await app(scope, self.receive, self.send)
            if not self.handshake_complete:
                logger.error("ASGI callable returned without completing handshake.")
        except ClientDisconnected:
            pass
        except BaseException:
            logger.exception("Exception in ASGI application\n")
        if not self.handshake_complete:
            self.refuse(HTTPStatus.INTERNAL_SERVER_ERROR)
        if self.close_timer is None:
            self.transport.close()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Limit the time to send what is left when the application has returned."""
        self.server_state.tasks.discard(task)
        if self.close_reply:
            self.end()
        self.start_write_deadline()

    def answer_handshake(self, event: Message) -> None:
        """Answer with 101, and start to parse and to ping."""
        headers = [*self.server_state.default_headers, *event.get("headers", ())]
        if subprotocol := event.get("subprotocol"):
            headers.append((b"Sec-WebSocket-Protocol", subprotocol.encode()))
        self.transport.write(answer(self.accept, headers))
        self.accept, self.handshake_complete = b"", True
        self.schedule_ping()
        if self.unparsed:
            self.schedule_turn()

    def refuse(
        self, status: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b""
    ) -> None:
        """Answer with another response, and close."""
        self.put_disconnect(CloseCode.ABNORMAL)
        self.handshake_complete = self.close_sent = True
        if not self.transport.is_closing():
            self.transport.write(denial(status, headers, body))
            self.transport.close()

    # Frames of the client.

    def data_received(self, data: bytes) -> None:
        """Parse the handshake, then frames."""
        if self.scope is None:
            if not self.close_sent:
                self.read_handshake(data)
            return
        if self.close_sent or self.close_reply:
            self.bytes_after_close += len(data)
            if self.bytes_after_close > MAX_BYTES_AFTER_CLOSE:
                self.discard()
            if self.disconnected or self.transport.is_closing() or self.close_reply:
                return
        if self.unparsed:
            self.unparsed += data
        else:
            self.unparsed = data[self.read_messages(data) :]
        if self.unparsed and self.turn is None:
            self.run_turn()

    def read_messages(self, data: bytes | bytearray) -> int:
        """Fast path: read whole messages at the start of `data`; return the position after them."""
        start, limit = 0, self.config.ws_max_size
        if self.is_open and not self.opcode:
            while not self.read_paused and (found := read_message(data, start, limit)):
                message, size, start = found
                self.put(message, size)
        return start

    @property
    def is_open(self) -> bool:
        """Whether the handshake has been answered with 101, and neither side has closed."""
        return self.handshake_complete and not self.close_sent and not self.close_reply

    @property
    def may_parse(self) -> bool:
        """Whether a frame can be handled now."""
        return not (
            self.read_paused or self.disconnected or self.close_reply or not self.handshake_complete
        )

    def run_turn(self) -> None:
        """Parse some frames; schedule another turn if there are more, else resume reading."""
        self.turn = None
        has_more = self.parse_frames()
        if self.transport.is_closing():
            return
        if has_more or (not self.handshake_complete and len(self.unparsed) >= MAX_BYTES):
            self.transport.pause_reading()
            if has_more:
                self.schedule_turn()
        elif not self.read_paused:
            self.transport.resume_reading()

    def schedule_turn(self) -> None:
        """Schedule a turn, after other tasks have run."""
        if self.turn is None:
            self.turn = self.loop.call_soon(self.run_turn)

    def parse_frames(self) -> bool:
        """Parse up to `FRAMES_PER_TURN` frames; return whether there may be more."""
        data, start, frame = self.unparsed, 0, None
        try:
            for _ in range(FRAMES_PER_TURN):
                if not self.may_parse:
                    break
                frame = read_frame(data, start, self.config.ws_max_size - self.fragments_size)
                if frame is None:
                    break
                first, payload, start = frame
                self.handle_frame(first, payload)
        except InvalidFrame as error:
            self.handle_invalid_frame(error)
        if self.disconnected or self.close_reply or start == len(data):
            self.unparsed = b""
        else:
            self.unparsed = data if isinstance(data, bytearray) else bytearray(data)
            del self.unparsed[:start]
        return frame is not None and bool(self.unparsed) and self.may_parse

    def handle_frame(self, first: int, payload: bytes) -> None:
        """Handle a message, a fragment or a control frame; raises `InvalidFrame`."""
        opcode = first & OPCODE
        if opcode & CONTROL:
            self.handle_control_frame(first, payload)
        elif bool(opcode) == bool(self.opcode):
            problem = "expected a" if opcode else "unexpected"
            raise InvalidFrame(CloseCode.PROTOCOL_ERROR, f"{problem} continuation frame")
        elif first & FIN and opcode:
            self.put_message(opcode, payload)
        else:
            self.handle_fragment(opcode, payload, is_last=first >= FIN)

    def handle_fragment(self, opcode: int, payload: bytes, *, is_last: bool) -> None:
        """Keep a fragment, or put all of them together."""
        if opcode:
            self.opcode, self.fragments, self.fragments_size = opcode, [], 0
        self.fragments.append(payload)
        self.fragments_size += len(payload)
        if is_last:
            opcode, message = self.opcode, b"".join(self.fragments)
            self.opcode, self.fragments, self.fragments_size = 0, [], 0
            self.put_message(opcode, message)
        elif len(self.fragments) > max(
            MIN_FRAGMENTS, self.config.ws_max_size // BYTES_PER_FRAGMENT
        ):
            raise InvalidFrame(CloseCode.MESSAGE_TOO_BIG, "too many fragments")

    def put_message(self, opcode: int, payload: bytes) -> None:
        """Put a message into the inbox, unless a close frame has been sent."""
        if self.close_sent:
            return
        try:
            self.put(payload if opcode == 2 else payload.decode(), len(payload))
        except UnicodeDecodeError:
            raise InvalidFrame(CloseCode.INVALID_DATA, "invalid UTF-8") from None

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

    # Pings.

    def handle_control_frame(self, first: int, payload: bytes) -> None:
        """Handle a ping, pong or close frame; drop a client that sends too many pings and pongs."""
        if first == CLOSE:
            self.handle_close(payload)
            return
        second = int(self.loop.time())
        self.control_frames = self.control_frames + 1 if second == self.second else 1
        self.second = second
        if self.control_frames > CONTROL_FRAMES_PER_SECOND:
            self.drop("too many pings or pongs")
        elif first == PING:
            has_room = self.transport.get_write_buffer_size() < HIGH_WATER
            if has_room and not self.close_sent and not self.transport.is_closing():
                self.transport.write(control_frame(PONG, payload))
        elif payload == self.ping_payload:
            self.ping_payload = None
            self.schedule_ping()

    def schedule_ping(self) -> None:
        """Schedule the next ping, if there are any."""
        self.stop_pings()
        if self.config.ws_ping_interval:
            self.ping_timer = self.loop.call_later(self.config.ws_ping_interval, self.send_ping)

    def stop_pings(self) -> None:
        """Stop the timer for a ping or a pong."""
        if self.ping_timer is not None:
            self.ping_timer.cancel()
            self.ping_timer = None

    def send_ping(self) -> None:
        """Send a ping, and start the timeout for its pong."""
        if self.close_sent or self.transport.is_closing():
            return
        self.ping_payload, self.waiting = random.randbytes(4), len(self.inbox)
        self.transport.write(control_frame(PING, self.ping_payload))
        self.wait_for_pong()

    def wait_for_pong(self) -> None:
        """Start the timeout for the pong, or schedule the next ping if there is none."""
        if self.config.ws_ping_timeout is None:
            self.schedule_ping()
        else:
            self.ping_timer = self.loop.call_later(self.config.ws_ping_timeout, self.miss_pong)

    def miss_pong(self) -> None:
        """Close after a missed pong; drop the connection if data is unsent.

        While the inbox is full, pongs are not read; then it is enough that messages are.
        """
        waiting, self.waiting = self.waiting, len(self.inbox)
        if self.read_paused and self.waiting < waiting:
            self.wait_for_pong()
            return
        if self.is_open:
            self.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    # The application.

    async def receive(self) -> Message:
        """Return the next message or disconnect, as an ASGI event."""
        message, _ = await self.inbox.get()
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        if isinstance(message, bytes):
            return {"type": "websocket.receive", "bytes": message}
        return message

    async def send(self, event: Message) -> None:
        """Send an ASGI event; raises `ClientDisconnected` or, for one out of turn, `RuntimeError`."""
        await self.writable.wait()
        if self.disconnected or (self.transport.is_closing() and not self.close_sent):
            raise ClientDisconnected
        match event["type"]:
            case "websocket.accept" if not self.handshake_complete and self.denial is None:
                self.answer_handshake(event)
            case "websocket.close" if not self.handshake_complete and self.denial is None:
                self.refuse(HTTPStatus.FORBIDDEN)
            case "websocket.http.response.start" if not self.handshake_complete:
                self.denial = (event["status"], [*event.get("headers", ())], b"")
            case "websocket.http.response.body" if self.denial and not self.close_sent:
                status, headers, body = self.denial
                self.denial = status, headers, body + event.get("body", b"")
                if not event.get("more_body"):
                    self.refuse(*self.denial)
            case "websocket.send" if self.handshake_complete and not self.close_sent:
                text = event.get("text")
                self.transport.write(server_frame(event["bytes"] if text is None else text))
            case "websocket.close" if self.handshake_complete and not self.close_sent:
                self.close(event.get("code", CloseCode.NORMAL), event.get("reason") or "")
            case unexpected:
                raise RuntimeError(f"unexpected ASGI message {unexpected!r}")

    def pause_writing(self) -> None:
        """Make senders wait until the write buffer has room."""
        self.writable = asyncio.Event()

    def resume_writing(self) -> None:
        """Let senders continue."""
        self.writable.set()

    # The end.

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; wait for that of the client, unless it has come."""
        self.send_close(code, reason)
        if self.close_reply:
            self.end()
            return
        self.stop_close_timer()
        self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.transport.close)
        self.read_paused = False
        if self.unparsed:
            self.schedule_turn()
        else:
            self.transport.resume_reading()

    def send_close(self, code: int, reason: str) -> None:
        """Send a close frame, and tell the application."""
        self.put_disconnect(code, reason)
        self.transport.write(control_frame(CLOSE, Close(code, reason).serialize()))
        self.close_sent = True

    def put_disconnect(self, code: int, reason: str = "") -> None:
        """Put a disconnect event into the inbox."""
        event = {"type": "websocket.disconnect", "code": int(code), "reason": reason}
        self.inbox.put(event)

    def handle_close(self, payload: bytes) -> None:
        """Reply to the client's close frame, or end if that is its reply.

        The reply is sent once the application has received all earlier messages, so that it can
        still answer them, or after `CLOSE_SECONDS`.
        """
        close = read_close(payload)
        if self.opcode:
            raise InvalidFrame(CloseCode.PROTOCOL_ERROR, "incomplete fragmented message")
        if self.close_sent:
            self.end()
            return
        is_waiting = len(self.inbox) > 0
        self.put_disconnect(close.code, close.reason)
        self.close_reply = control_frame(CLOSE, payload)
        if is_waiting:
            self.inbox.is_full = True  # so that `on_inbox_empty` is called
            self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.end)
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
        """Stop the timer that ends the connection."""
        if self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = None

    def handle_invalid_frame(self, error: InvalidFrame) -> None:
        """Close, unless a close frame was sent; ignore what follows."""
        if self.transport.is_closing():
            return
        if self.close_sent:
            self.discard()
        else:
            self.fail(error.code, error.reason)

    def fail(self, code: int, reason: str) -> None:
        """Close because of what the client has sent or not, and ignore what follows."""
        self.send_close(code, reason)
        self.log("closed", code=int(code), reason=reason)
        self.discard()

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
        self.stop_pings()
        if self.close_reply:
            self.end()
        elif not self.handshake_complete:
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        elif self.close_sent:
            self.stop_close_timer()
            self.transport.close()
        elif not self.transport.is_closing():
            self.send_close(CloseCode.SERVICE_RESTART, "")
            self.discard()

    def connection_lost(self, exc: Exception | None) -> None:
        """Parse what remains, up to `TURNS_AT_END` turns.

        The code is 1006, unless one side has sent a close frame.
        """
        for _ in range(TURNS_AT_END):
            self.read_paused = False
            if self.close_sent or not self.parse_frames():
                break
        self.unparsed = b""
        self.put_disconnect(CloseCode.ABNORMAL)
        self.handshake_complete = self.disconnected = True
        self.stop_pings()
        self.stop_close_timer()
        if self.write_deadline is not None:
            self.write_deadline.stop()
        self.server_state.connections.discard(cast("Any", self))
        # asyncio never resumes a transport that is lost while paused.
        self.writable.set()
        self.inbox.detach()

    def start_write_deadline(self) -> None:
        """Start to check that the client reads unsent data, if there is any."""
        if self.transport.get_write_buffer_size() and self.write_deadline is None:
            on_expiry = partial(self.drop, "it stopped reading")
            self.write_deadline = WriteDeadline(self.transport, on_expiry)
            self.write_deadline.start()

    def drop(self, reason: str) -> None:
        """End without a close frame; unsent data is lost."""
        self.log("dropped", reason=reason)
        self.disconnected = True
        self.transport.abort()

    def log(self, message: str, **fields: object) -> None:
        """Log a warning about this connection."""
        known = connection_fields(self.scope) if self.scope else {"client": address_of(self.client)}
        refusals.warning(message, extra={**known, **fields})


def handshake_of(request: Request, response: Any) -> Handshake:
    """Return a handshake that `websockets` has parsed and accepted."""
    headers = [
        (name.lower().encode("ascii"), value.encode("latin-1"))
        for name, value in request.headers.raw_items()
    ]
    offered = request.headers.get_all("Sec-WebSocket-Protocol")
    subprotocols = [name.strip() for each in offered for name in each.split(",")]
    accept = response.headers["Sec-WebSocket-Accept"].encode()
    return Handshake(request.path, headers, subprotocols, accept)
