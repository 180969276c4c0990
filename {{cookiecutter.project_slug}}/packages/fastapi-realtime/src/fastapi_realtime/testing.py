"""Helpers for the tests of an application: its settings, a real server, a check of its routes."""

import asyncio
import os
import socket
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import uvicorn
from fastapi import FastAPI
from starlette.routing import BaseRoute, WebSocketRoute

from .admission import Admission
from .command_line import protocol_options
from .messages import calls_of, find_routes
from .realtime import Realtime
from .settings import RealtimeSettings

__all__ = ["make_settings", "routes_without_admission", "running"]

S = TypeVar("S", bound=RealtimeSettings)


def make_settings(kind: type[S], **changes: Any) -> S:
    """Return default settings with `changes`, and nothing from the environment or `.env`.

    Rooms are in memory. The key for tokens is a new one; to have the same one in several
    settings, give `auth_key`.
    """
    values: dict[str, Any] = {}
    if "broker_url" in kind.model_fields:
        values["broker_url"] = "memory://"
    if "auth_key" in kind.model_fields:
        from .tokens import new_secret

        values["auth_key"] = new_secret()
    others = {name: text for name, text in os.environ.items() if not name.startswith("APP_")}
    others.pop("PORT", None)
    with patch.dict(os.environ, others, clear=True):
        return kind(_env_file=None, **values | changes)


@contextmanager
def running(app: FastAPI, listener: socket.socket | None = None, **options: Any) -> Generator[str]:
    """Serve an application in a thread, as its command does, and yield `ws://127.0.0.1:<port>`.

    The port is a free one, unless a listening socket is given. `options` are those of
    `uvicorn.Config`, and replace those of the command. At the end, the server has stopped.
    """
    realtime: Realtime = app.state.realtime
    options = protocol_options(realtime.settings) | {"log_config": None} | options
    listener = listener or socket.create_server(("127.0.0.1", 0), backlog=100)
    with listener:
        server = ThreadServer(uvicorn.Config(app, **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        server.main_loop_began.wait()  # until then, FastAPI changes filters of warnings
        try:
            yield "ws://{}:{}".format(*listener.getsockname())
        finally:
            server.stop()
            thread.join()


class ThreadServer(uvicorn.Server):
    """A server that stops when it is told to, and not at the next tenth of a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.main_loop_began = threading.Event()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Run; where the start fails, too, nobody waits for the main loop."""
        try:
            super().run(sockets)
        finally:
            self.main_loop_began.set()

    async def main_loop(self) -> None:
        """Wait for `stop`, and then a short time for open connections."""
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self.main_loop_began.set()
        await self._stopped.wait()
        for _ in range(40):  # shutdown itself waits in steps of a tenth of a second
            if not self.server_state.connections and not self.server_state.tasks:
                break
            await asyncio.sleep(0.005)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Leave out uvicorn's pauses where no client is left."""
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for each in (*self.servers, *(sockets or ())):
            each.close()
        await self.lifespan.shutdown()

    def stop(self) -> None:
        """End the main loop, from another thread."""
        self.main_loop_began.wait()
        if self.started:
            self._loop.call_soon_threadsafe(self._stopped.set)


def routes_without_admission(routes: Sequence[BaseRoute]) -> Iterator[str]:
    """Yield the paths of WebSocket routes that any page may connect to, and without limits.

    Routes of mounted applications are among them.
    """
    for prefix, context in find_routes(routes):
        if isinstance(context.original_route, WebSocketRoute):
            calls = calls_of(getattr(context, "dependant", None))
            if not any(isinstance(call, Admission) for call in calls):
                yield f"{prefix}{context.path or ''}"
