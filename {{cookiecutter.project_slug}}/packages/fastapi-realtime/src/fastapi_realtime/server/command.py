"""Runs an application on uvicorn with the engine's protocols and limits."""

import asyncio
import logging
import signal
from functools import partial
from logging.config import dictConfig
from types import FrameType
from typing import Any

import uvicorn

from ..settings import RealtimeSettings
from .http_protocol import LimitedHttpProtocol
from .logging import add_page_url, name_settings, uvicorn_log_config
from .websocket_protocol import LimitedWebSocketProtocol


def serve(application: Any, settings: RealtimeSettings, page: str = "") -> None:
    """Serve an application, or one named like `package.main:app`, until Ctrl-C or SIGTERM.

    Open connections then get 1012; those still open after `drain_seconds` are dropped. `page` is
    the path of a page to open in a browser; the log shows its URL at startup.
    """
    log_config = uvicorn_log_config(settings.log_format, settings.application)
    dictConfig(log_config)
    logging.captureWarnings(settings.log_format == "json")
    server_log = logging.getLogger("uvicorn.error")
    server_log.addFilter(name_settings)
    if page:
        server_log.addFilter(partial(add_page_url, page))
    proxies = settings.trusted_proxies
    signal.signal(signal.SIGINT, interrupt)
    uvicorn.run(
        application,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        forwarded_allow_ips="*" if "*" in proxies else list(proxies),
        **protocol_options(settings),
        # uvicorn's default of 5 seconds is too short to import the application on a busy machine.
        timeout_worker_healthcheck=60,
        log_config=log_config,
    )
    # `uv run` sends Ctrl-C again after 0.2 seconds, perhaps while Python is shutting down.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def protocol_options(settings: RealtimeSettings) -> dict[str, Any]:
    """Return the options of uvicorn that enable the engine's protocols and limits."""
    return {
        "http": LimitedHttpProtocol,
        "ws": LimitedWebSocketProtocol,
        "ws_max_size": settings.max_message_bytes,
        # Compression takes 32 KiB per connection, and CPU for every recipient of a broadcast.
        "ws_per_message_deflate": False,
        "timeout_graceful_shutdown": settings.drain_seconds,  # for HTTP requests
    }


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C: exit while the server starts; ignore it once the server has handled it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise KeyboardInterrupt from None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at the next one, no loop may be running
