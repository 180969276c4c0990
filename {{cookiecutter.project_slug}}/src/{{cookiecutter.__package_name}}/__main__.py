"""The command `{{ cookiecutter.project_slug }}`: the application on uvicorn, set up for WebSockets."""

import argparse
import asyncio
import logging
import signal
from logging.config import dictConfig
{% if cookiecutter.auth == "jwt" %}
from pathlib import Path
{% endif %}
from types import FrameType

{% if cookiecutter.auth == "jwt" %}
import jwt
{% endif %}
import uvicorn

from .http_protocol import LimitedHttpProtocol
{% if cookiecutter.auth == "jwt" %}
from .keys import new_secret, read_key_file
{% endif %}
from .logs import uvicorn_log_config
from .settings import Settings, load_settings
{% if cookiecutter.auth == "jwt" %}
from .tokens import mint
{% endif %}
from .websocket_protocol import LimitedWebSocketProtocol

{% if cookiecutter.include_broadcast %}
logger = logging.getLogger(__package__)

{% endif %}

def main() -> None:
    """Serve until Ctrl-C or SIGTERM; open connections then get 1012, and some time to end."""
    parser = argparse.ArgumentParser(
        prog="{{ cookiecutter.project_slug }}",
        description="Run the server. Its settings are APP_* variables, listed in README.md.",
    )
{% if cookiecutter.auth == "jwt" %}
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("key", help="print a new APP_AUTH_KEY, for .env")
    token = commands.add_parser("token", help="print a token, for development")
    token.add_argument("subject", help="who it is for")
    token.add_argument("--minutes", type=float, default=60, help="how long it is valid (60)")
    token.add_argument("--key", type=Path, help="private key, where APP_AUTH_KEY is a public one")
    arguments = parser.parse_args()
    if arguments.command == "key":
        print(f"APP_AUTH_KEY={new_secret()}")
    elif arguments.command == "token":
        settings = load_settings()
        try:
            key = read_key_file(arguments.key) if arguments.key else None
            print(mint(arguments.subject, 60 * arguments.minutes, settings, key))
        except (OSError, OverflowError, ValueError, jwt.PyJWTError) as failure:
            parser.error(f"no token was made: {failure}")
    else:
        serve(load_settings())
{% else %}
    parser.parse_args()
    serve(load_settings())
{% endif %}


def serve(settings: Settings) -> None:
    """Run uvicorn, with its limits where the application's are."""
    log_config = uvicorn_log_config(settings.log_format)
    dictConfig(log_config)
    logging.captureWarnings(settings.log_format == "json")
{% if cookiecutter.include_broadcast %}
    if settings.workers > 1:
        logger.warning("rooms live in one process: APP_WORKERS > 1 splits them")
{% endif %}
    proxies = settings.trusted_proxies
    signal.signal(signal.SIGINT, interrupt)
    uvicorn.run(
        f"{__package__}.main:app",
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        forwarded_allow_ips="*" if "*" in proxies else list(proxies),
        http=LimitedHttpProtocol,
        ws=LimitedWebSocketProtocol,
        ws_max_size=settings.max_message_bytes,
        # Compression costs 32 KiB a connection, and CPU for every copy of a broadcast.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=settings.drain_seconds,  # for what is not a WebSocket
        log_config=log_config,
    )
    # `uv run` repeats Ctrl-C after 0.2 seconds, when Python may already be shutting down.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C before the server starts; while it ends, ignore repeats."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise KeyboardInterrupt from None


if __name__ == "__main__":
    main()
