"""The engine: state shared by all connections of an application, and its lifespan."""

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, FastAPI, HTTPException
from fastapi.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from .connection import Connection
from .errors import CloseCode, add_error_handlers, add_to_mounted
from .fastapi_internals import Lifespan, add_innermost, wrap_lifespan
from .handshake import Authenticator, Identity
from .limits import ConnectionLimiter, LongMessages, connections_that_fit
from .messages import Signatures
from .server.fast_path import FindTransport
from .server.logging import check_client, set_up_logging
from .server.metrics import ConnectionCounts, running
from .server.shutdown import Drain, StopSignals
from .settings import RealtimeSettings

S = TypeVar("S", bound="Service")

NOT_STARTED = (
    "this application has not been started: its lifespan has not run. In a test, write "
    "`with TestClient(app) as client:`. If it is mounted in another application, the lifespan of "
    "that one must contain `async with app.router.lifespan_context(app): yield`."
)


class Service(Protocol):
    """An optional part of the engine with its own lifespan, such as rooms."""

    @property
    def is_ready(self) -> bool:
        """Whether clients can be served now."""

    def lifespan(self, realtime: "Realtime") -> AbstractAsyncContextManager[None]:
        """Return a context that is entered at startup and exited at shutdown."""

    async def flush(self) -> None:
        """Wait until everything published so far has been written to the connections."""

    async def close_subject(self, subject: str) -> None:
        """Ask other processes to close a subject's connections."""


class Realtime:
    """State shared by all connections of an application; `install` adds it to the application."""

    def __init__(
        self,
        settings: RealtimeSettings,
        *,
        authenticator: Authenticator | None = None,
        services: Iterable[Service] = (),
    ) -> None:
        """Without an `authenticator`, clients need no token."""
        self.settings = settings
        self.authenticator = authenticator
        self.subprotocols = authenticator.subprotocols if authenticator else ()
        self._counts = ConnectionCounts()
        self.connections = self._counts.open
        self.long_messages = LongMessages()
        self.signatures = Signatures()
        self.limiter = ConnectionLimiter(settings.max_connections, settings.max_connections_per_ip)
        self.drain = Drain(self.connections, settings.drain_seconds, self.flush)
        self.services = tuple(services)
        self._is_running = False

    @property
    def is_ready(self) -> bool:
        """Whether clients can be served: started, not stopping, and all services are ready."""
        is_open = self._is_running and not self.drain.has_begun
        return is_open and all(service.is_ready for service in self.services)

    def install(self, app: FastAPI) -> None:
        """Add lifespan, middleware, logging and error handlers to an application."""
        app.state.realtime = self
        set_up_logging(self.settings.log_format, self.settings.application)
        add_error_handlers(app)
        # Innermost, so that the fast path never bypasses a middleware that wraps `send`.
        add_innermost(app, FindTransport)
        app.add_middleware(ProvideRealtime, realtime=self)
        wrap_lifespan(app, self._wrap_lifespan)

    def _wrap_lifespan(self, own: Lifespan) -> Lifespan:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncGenerator[Any]:
            self.signatures.resolve(app.routes)
            add_to_mounted(app.routes)
            async with self._running(), own(app) as state:
                yield state

        return lifespan

    def service(self, kind: type[S]) -> S:
        """Return the service of this type; raises `LookupError` if there is none."""
        for service in self.services:
            if isinstance(service, kind):
                return service
        raise LookupError(f"there is no service {kind.__name__}")

    async def flush(self) -> None:
        """Wait until everything published so far has been written to the connections."""
        for service in self.services:
            await service.flush()

    async def authenticate(self, connection: Connection) -> None:
        """Set the identity of a client, and close its connection when that expires.

        Raises a 401. The identity is set before revocation is checked, so that a revocation in
        the meantime finds the connection.
        """
        if self.authenticator is None:
            return
        connection.identity = await self.authenticator.identify(connection.websocket)
        connection.close_at(connection.identity.expires)
        await self.authenticator.check_revoked(connection.identity)

    async def renew(self, connection: Connection, token: str) -> Identity:
        """Verify a new token for an open connection; pass the result to `connection.renew`.

        Raises a 401 if the token is invalid or revoked, a 403 if it has another subject or the
        application has no tokens.
        """
        if self.authenticator is None:
            raise HTTPException(403, "there are no tokens here")
        identity = await self.authenticator.verify(token)
        if identity.subject != connection.subject:
            raise HTTPException(403, "the token is for another subject")
        await self.authenticator.check_revoked(identity)
        return identity

    def close_subject(self, subject: str) -> int:
        """Close a subject's connections in this process with 4401; return their number."""
        theirs = [connection for connection in self.connections if connection.subject == subject]
        for connection in theirs:
            connection.close_soon(CloseCode.UNAUTHORIZED, "token revoked")
        return len(theirs)

    def check_started(self) -> None:
        """Raise `RuntimeError` outside of the lifespan of the application."""
        if not self._is_running:
            raise RuntimeError(NOT_STARTED)

    def check_running(self) -> None:
        """Raise a 503 while the application stops; see also `check_started`."""
        if self.drain.has_begun:
            raise HTTPException(503, "restarting")
        self.check_started()

    def add(self, connection: Connection) -> None:
        """Count a connection; raises 503 or 429 if there are too many."""
        self.limiter.acquire(connection.host)
        self.connections.add(connection)

    async def remove(self, connection: Connection) -> None:
        """Wait until a connection is flushed, log its end, and stop counting it."""
        try:
            await connection.wait_flushed()
        finally:
            connection.log_end()
            self._counts.remove(connection)
            self.limiter.release(connection.host)

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        settings = self.settings
        limit = connections_that_fit(settings.max_connections)
        self.limiter = ConnectionLimiter(limit, settings.max_connections_per_ip)
        self.long_messages = LongMessages()  # its lock belongs to this event loop
        idle = asyncio.create_task(close_idle(self.connections, settings.idle_timeout))
        async with AsyncExitStack() as stack:
            for service in self.services:
                await stack.enter_async_context(service.lifespan(self))
            self._is_running = True
            running.add(self._counts)
            signals = StopSignals(self.drain.run)
            signals.install()
            # Exempt the imported modules from garbage collection: scanning them can take tens of
            # milliseconds.
            gc.freeze()
            try:
                yield
            finally:
                gc.unfreeze()
                signals.restore()
                self._is_running = False
                running.discard(self._counts)
                idle.cancel()


async def close_idle(connections: set[Connection], seconds: float) -> None:
    """Close connections with 1001 that had no message, in or out, for `seconds`.

    A single task for all of them: a timer for each would take 2 KiB.
    """
    while True:
        await asyncio.sleep(min(seconds / 10, 60))
        now = time.monotonic()
        for connection in [each for each in connections if each.idle_seconds(now) > seconds]:
            connection.close_soon(CloseCode.GOING_AWAY, "idle; see APP_IDLE_TIMEOUT")


class ProvideRealtime:
    """Middleware that puts the engine into `scope`, and checks the client's address in it."""

    def __init__(self, app: ASGIApp, realtime: Realtime) -> None:
        self.app = app
        self.realtime = realtime

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        check_client(scope)
        scope["fastapi_realtime"] = self.realtime
        return self.app(scope, receive, send)


def realtime_of(connection: HTTPConnection) -> Realtime:
    """Return the engine that serves a request or a handshake."""
    return connection.scope["fastapi_realtime"]


async def current_realtime(connection: HTTPConnection) -> Realtime:
    """Dependency: the application's engine. Async, since FastAPI runs others in threads."""
    return realtime_of(connection)


async def current_settings(connection: HTTPConnection) -> RealtimeSettings:
    """Dependency: the settings of the application."""
    return realtime_of(connection).settings


RealtimeDep = Annotated[Realtime, Depends(current_realtime)]
