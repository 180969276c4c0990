"""The command of a project: run the server, talk to it, check it, publish, make keys and tokens."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from logging.config import dictConfig
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import uvicorn

from .server.http_protocol import LimitedHttpProtocol
from .server.logging import add_page_url, local_address, name_settings, uvicorn_log_config
from .server.websocket_protocol import LimitedWebSocketProtocol
from .settings import RealtimeSettings, RoomSettings, SettingsError, load_settings

S = TypeVar("S", bound=RealtimeSettings)


def run_command(
    application: str,
    kind: type[S],
    *,
    page: Callable[[S], str] = lambda settings: "",
    rooms: str = "/ws_broadcast",
) -> None:
    """Do what the command line says; without a subcommand, run the server until Ctrl-C or SIGTERM.

    `application` is named like `package.main:app`, `kind` is the class of its settings. There are
    the subcommands `talk` and `check`; with rooms, `publish`, which posts to the path `rooms`; and
    with tokens, `key` and `token`. `page` returns the path of a page that the log names at the start, or an
    empty text. Errors are one sentence and exit status 1.
    """
    package = application.partition(".")[0]
    program = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(
        prog=f"python -m {package}" if program == "__main__.py" else program,
        description="Run the server. Its settings are APP_* variables, listed in .env.example.",
    )
    commands = parser.add_subparsers(metavar="command")
    has_tokens = "auth_key" in kind.model_fields
    rooms = rooms if issubclass(kind, RoomSettings) else ""
    add_talk(commands, rooms, has_tokens)
    add_check(commands, rooms, has_tokens)
    if rooms:
        add_publish(commands, rooms, has_tokens)
    if has_tokens:
        add_tokens(commands, bool(rooms))
    parser.set_defaults(run=None)
    arguments = parser.parse_args()
    try:
        if arguments.run is None:
            settings = load_settings(kind)
            settings.check_services()
            serve(application, settings, page(settings))
        elif said := arguments.run(arguments, lambda: load_settings(kind)):
            print(said)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # nobody reads what is printed; Python flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (SettingsError, CommandError) as error:
        sys.exit(str(error))


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


class CommandError(Exception):
    """A subcommand can't do what it was asked to; the text says why."""


def add_talk(commands: Any, rooms: str, has_tokens: bool) -> None:
    """Add `talk`, which sends lines to an endpoint and prints what arrives."""
    parser = commands.add_parser("talk", help="send lines to an endpoint, print what arrives")
    add_target(parser, has_tokens)
    if rooms:
        parser.add_argument(
            "--text", action="store_true", help="in rooms, receive text instead of events"
        )

    def run(arguments: argparse.Namespace, load: Callable[[], Any]) -> None:
        from .talk import TalkError, talk

        url, token = target_of(arguments, load, rooms, has_tokens)
        try:
            talk(url, token, bool(rooms) and not arguments.text)
        except TalkError as error:
            raise CommandError(str(error)) from None

    parser.set_defaults(run=run)


def add_check(commands: Any, rooms: str, has_tokens: bool) -> None:
    """Add `check`, which says what is wrong between a deployed server and its clients."""
    about = "check a deployed server, from where its clients are"
    parser = commands.add_parser("check", help=about)
    add_target(parser, has_tokens)
    parser.add_argument("--silence", type=seconds, default=70, help="to say nothing for (70)")
    parser.add_argument("--restart", action="store_true", help="wait for a restart, and check it")

    def run(arguments: argparse.Namespace, load: Callable[[], Any]) -> None:
        from .check import ServerCheck

        url, token = target_of(arguments, load, rooms, has_tokens)
        checks = ServerCheck(url, token, rooms, partial(print, flush=True))
        if problems := checks.run(arguments.silence, arguments.restart):
            raise CommandError(f"problems: {problems}")

    parser.set_defaults(run=run)


def add_target(parser: argparse.ArgumentParser, has_tokens: bool) -> None:
    """Add the URL of an endpoint, and the token for it."""
    about = "a path of the server with these settings, like /ws, or ws:// or wss://..."
    parser.add_argument("url", help=about)
    if has_tokens:
        about = "APP_TOKEN by default; for a path, else a new one"
        parser.add_argument("--token", default=os.environ.get("APP_TOKEN", ""), help=about)


def target_of(
    arguments: argparse.Namespace, load: Callable[[], Any], rooms: str, has_tokens: bool
) -> tuple[str, str]:
    """Return URL and token. Only the own server gets a new token."""
    url, token = arguments.url, arguments.token if has_tokens else ""
    if url.startswith("/"):
        settings = load()
        url = server_url(settings).replace("http", "ws", 1) + url
        if has_tokens and not token:
            token = sign("shell", 3600, None, settings, {"rooms": ["*"]} if rooms else {})
    return url, token


def seconds(text: str) -> float:
    """Return a time of up to a day; raises `ValueError`."""
    if not 0 < (value := float(text)) <= 86_400:
        raise ValueError(text)
    return value


def server_url(settings: RealtimeSettings) -> str:
    """Return the URL of a local server with these settings; raises `CommandError` for port 0."""
    if not settings.port:
        raise CommandError("APP_PORT=0 takes any port; give a URL")
    return f"http://{local_address(settings.host, settings.port)}"


def add_publish(commands: Any, path: str, has_tokens: bool) -> None:
    """Add `publish`, which sends a message to a room of a running server."""
    parser = commands.add_parser("publish", help="send a message to a room of a running server")
    parser.add_argument("room")
    parser.add_argument("data", help="""JSON, like '{"price": 3}' or '"Hello"'""")
    parser.add_argument("--url", help="of the server, if it is not that of the settings")
    if has_tokens:
        parser.add_argument("--sender", help="subject of a new token (APP_TOKEN, else: shell)")
        parser.add_argument("--key", type=Path, help="private key, if APP_AUTH_KEY is a public one")
    else:
        parser.add_argument("--sender", default="shell", help="name that others see (shell)")

    def run(arguments: argparse.Namespace, load: Callable[[], Any]) -> str:
        from .rooms import PublishError, post_message

        settings = load()
        try:
            server = arguments.url.rstrip("/") if arguments.url else server_url(settings)
            url = f"{server}{path}/{quote(os.fsencode(arguments.room), safe='')}"
            token = os.environ.get("APP_TOKEN", "") if has_tokens else ""
            if not has_tokens:
                url += f"?{urlencode({'name': arguments.sender})}"
            elif arguments.sender or not token:
                claims = {"rooms": [arguments.room]}
                token = sign(arguments.sender or "shell", 60, arguments.key, settings, claims)
            return post_message(url, arguments.data, token)
        except PublishError as error:
            raise CommandError(str(error)) from None

    parser.set_defaults(run=run)


def add_tokens(commands: Any, has_rooms: bool) -> None:
    """Add `key` and `token`, which print an `APP_AUTH_KEY` and a token for development."""
    from .tokens import new_secret

    key = commands.add_parser("key", help="print a new APP_AUTH_KEY, for .env")
    key.set_defaults(run=lambda arguments, load: f"APP_AUTH_KEY={new_secret()}")
    parser = commands.add_parser("token", help="print a token, for development")
    parser.add_argument("subject", help="who it is for")
    parser.add_argument("--minutes", type=float, default=60, help="how long it is valid (60)")
    parser.add_argument("--key", type=Path, help="private key, if APP_AUTH_KEY is a public one")
    if has_rooms:
        parser.add_argument("--room", action="append", help="what it opens, like tea or 'team-*'")

    def run(arguments: argparse.Namespace, load: Callable[[], Any]) -> str:
        rooms = arguments.room if has_rooms else None
        claims = {"rooms": rooms} if rooms else {}
        return sign(arguments.subject, 60 * arguments.minutes, arguments.key, load(), claims)

    parser.set_defaults(run=run)


def sign(
    subject: str, seconds: float, key_file: Path | None, settings: Any, claims: dict[str, Any]
) -> str:
    """Return a token that is signed with a private key, or else with the server's secret."""
    from .tokens import make_token
    from .tokens.keys import read_key_file

    try:
        key = read_key_file(key_file) if key_file else None
        return make_token(subject, seconds, settings, key, claims)
    except ValueError as error:
        raise CommandError(str(error)) from None
