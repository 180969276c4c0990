"""Runs an application on uvicorn, set up for WebSockets."""

import asyncio
import logging
import signal
from logging.config import dictConfig
from types import FrameType
from typing import Any

import uvicorn

from ..settings import RealtimeSettings
from .http_protocol import LimitedHttpProtocol
from .logging import NamePage, uvicorn_log_config
from .websocket_protocol import LimitedWebSocketProtocol


def serve(application: Any, settings: RealtimeSettings, page: str = "") -> None:
    """Serve an application, or one named like `package.main:app`, until Ctrl-C or SIGTERM.

    Open connections then get 1012, and `drain_seconds` to end. `page` is the path of a page that
    the log names at the start.
    """
    log_config = uvicorn_log_config(settings.log_format, settings.application)
    dictConfig(log_config)
    logging.captureWarnings(settings.log_format == "json")
    if page:
        logging.getLogger("uvicorn.error").addFilter(NamePage(page))
    proxies = settings.trusted_proxies
    signal.signal(signal.SIGINT, interrupt)
    uvicorn.run(
        application,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        forwarded_allow_ips="*" if "*" in proxies else list(proxies),
        **protocol_options(settings),
        # Within uvicorn's 5 seconds, a busy machine may not even have imported the application.
        timeout_worker_healthcheck=60,
        log_config=log_config,
    )
    # `uv run` repeats Ctrl-C after 0.2 seconds, when Python may already be shutting down.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def protocol_options(settings: RealtimeSettings) -> dict[str, Any]:
    """Return the options of uvicorn that put the engine's limits into it."""
    return {
        "http": LimitedHttpProtocol,
        "ws": LimitedWebSocketProtocol,
        "ws_max_size": settings.max_message_bytes,
        # Compression costs 32 KiB a connection, and CPU for every copy of a broadcast.
        "ws_per_message_deflate": False,
        "timeout_graceful_shutdown": settings.drain_seconds,  # for what is not a WebSocket
    }


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C before the server starts; when it ends, ignore this one and all repeats."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise KeyboardInterrupt from None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # no loop may be running at the next one
