"""The command `{{ cookiecutter.project_slug }}`: the application on uvicorn, set up for WebSockets."""

import argparse
import signal
{% if cookiecutter.include_broadcast %}
import sys
{% endif %}
from contextlib import suppress
{% if cookiecutter.auth == "jwt" %}
from pathlib import Path
{% endif %}

{% if cookiecutter.auth == "jwt" %}
import jwt
{% endif %}
import uvicorn

{% if cookiecutter.auth == "jwt" %}
from .keys import new_secret
{% endif %}
from .logs import uvicorn_log_config
from .server import Http, WebSocket
from .settings import Settings, load_settings
{% if cookiecutter.auth == "jwt" %}
from .tokens import mint
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
            key = arguments.key.read_text("utf-8") if arguments.key else None
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
{% if cookiecutter.include_broadcast %}
    if settings.workers > 1:
        print("Rooms live in one process: APP_WORKERS > 1 splits them.", file=sys.stderr)
{% endif %}
    allow_open_files(settings.max_connections + 100)
    uvicorn.run(
        f"{__package__}.main:app",
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http=Http,
        ws=WebSocket,
        ws_max_size=settings.max_message_bytes,
        # Compression costs 32 KiB a connection, and CPU for every copy of a broadcast.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=settings.drain_seconds,  # for what is not a WebSocket
        log_config=uvicorn_log_config(settings.log_format),
    )
    # `uv run` repeats Ctrl-C after 0.2 seconds, when Python may already be shutting down.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def allow_open_files(count: int) -> None:
    """Raise the number of files, and so of sockets, that may be open; systems start low."""
    with suppress(ImportError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
