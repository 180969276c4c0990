{% if cookiecutter.include_broadcast and cookiecutter.auth == "jwt" %}
"""The command `{{ cookiecutter.project_slug }}`: run the server, publish, make keys and tokens."""
{% elif cookiecutter.include_broadcast %}
"""The command `{{ cookiecutter.project_slug }}`: run the server, or publish."""
{% elif cookiecutter.auth == "jwt" %}
"""The command `{{ cookiecutter.project_slug }}`: run the server, make keys and tokens."""
{% else %}
"""The command `{{ cookiecutter.project_slug }}`: run the server."""
{% endif %}

import argparse
{% if cookiecutter.include_broadcast %}
import os
{% endif %}
import sys
{% if cookiecutter.auth == "jwt" %}
from pathlib import Path
{% endif %}
{% if cookiecutter.include_broadcast %}
from urllib.parse import quote{{ ", urlencode" if cookiecutter.auth == "none" }}
{% endif %}

from .realtime import SettingsError, load_settings, serve
{% if cookiecutter.include_broadcast %}
from .realtime.rooms import PublishError, post_message, server_url
{% endif %}
{% if cookiecutter.auth == "jwt" %}
from .realtime.tokens import TokenError, make_token, new_secret, read_key_file
{% endif %}
from .settings import Settings


def main() -> None:
    """Do what the command line says; without a command, run the server until Ctrl-C or SIGTERM."""
{% if cookiecutter.include_broadcast or cookiecutter.auth == "jwt" %}
    arguments = parse_arguments()
{% else %}
    parse_arguments()
{% endif %}
{% if cookiecutter.auth == "jwt" %}
    if arguments.command == "key":
        print(f"APP_AUTH_KEY={new_secret()}")
        return
{% endif %}
    try:
        settings = load_settings(Settings)
{% if cookiecutter.auth == "jwt" %}
        if arguments.command == "token":
            print(token(arguments, settings))
            return
{% endif %}
{% if cookiecutter.include_broadcast %}
        if arguments.command == "publish":
            print(publish(arguments, settings))
            return
{% endif %}
{% if cookiecutter.include_broadcast and cookiecutter.auth == "jwt" %}
    except (SettingsError, TokenError, PublishError) as error:
{% elif cookiecutter.include_broadcast %}
    except (SettingsError, PublishError) as error:
{% elif cookiecutter.auth == "jwt" %}
    except (SettingsError, TokenError) as error:
{% else %}
    except SettingsError as error:
{% endif %}
        sys.exit(str(error))
{% if cookiecutter.include_demo %}
    serve(f"{__package__}.main:app", settings, page="/" if settings.demo else "")
{% else %}
    serve(f"{__package__}.main:app", settings)
{% endif %}


def parse_arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        prog="{{ cookiecutter.project_slug }}",
        description="Run the server. Its settings are APP_* variables, listed in README.md.",
    )
{% if cookiecutter.include_broadcast or cookiecutter.auth == "jwt" %}
    commands = parser.add_subparsers(dest="command", metavar="command")
{% endif %}
{% if cookiecutter.include_broadcast %}
    publish = commands.add_parser("publish", help="send a message to a room of a running server")
    publish.add_argument("room")
    publish.add_argument("data", help="""JSON, like '{"price": 3}' or '"Hello"'""")
{% if cookiecutter.auth == "jwt" %}
    publish.add_argument("--sender", help="subject of a new token (APP_TOKEN, else: shell)")
    publish.add_argument("--key", type=Path, help="private key, where APP_AUTH_KEY is a public one")
{% else %}
    publish.add_argument("--sender", default="shell", help="whom others see as its sender (shell)")
{% endif %}
    publish.add_argument("--url", help="of the server, where it is not that of the settings")
{% endif %}
{% if cookiecutter.auth == "jwt" %}
    commands.add_parser("key", help="print a new APP_AUTH_KEY, for .env")
    token = commands.add_parser("token", help="print a token, for development")
    token.add_argument("subject", help="who it is for")
    token.add_argument("--minutes", type=float, default=60, help="how long it is valid (60)")
    token.add_argument("--key", type=Path, help="private key, where APP_AUTH_KEY is a public one")
{% if cookiecutter.include_broadcast %}
    token.add_argument("--room", action="append", help="what it opens, like tea or 'team-*'")
{% endif %}
{% endif %}
    return parser.parse_args()
{% if cookiecutter.include_broadcast %}


def publish(arguments: argparse.Namespace, settings: Settings) -> str:
    """Send a message to a room of the running server, and return its id."""
    server = arguments.url.rstrip("/") if arguments.url else server_url(settings)
{% if cookiecutter.auth == "jwt" %}
    url = f"{server}/ws_broadcast/{quote(os.fsencode(arguments.room), safe='')}"
    claims = {"rooms": [arguments.room]}
    token = os.environ.get("APP_TOKEN", "")
    if arguments.sender or not token:
        token = signed(arguments.sender or "shell", 60, arguments, settings, claims)
    return post_message(url, arguments.data, token)
{% else %}
    query = urlencode({"name": arguments.sender})
    url = f"{server}/ws_broadcast/{quote(os.fsencode(arguments.room), safe='')}?{query}"
    return post_message(url, arguments.data)
{% endif %}
{% endif %}
{% if cookiecutter.auth == "jwt" %}


def token(arguments: argparse.Namespace, settings: Settings) -> str:
    """Return a token for development."""
{% if cookiecutter.include_broadcast %}
    claims = {"rooms": arguments.room} if arguments.room else {}
    return signed(arguments.subject, 60 * arguments.minutes, arguments, settings, claims)
{% else %}
    return signed(arguments.subject, 60 * arguments.minutes, arguments, settings, {})
{% endif %}


def signed(
    subject: str,
    seconds: float,
    arguments: argparse.Namespace,
    settings: Settings,
    claims: dict[str, list[str]],
) -> str:
    """Return a token that is signed with the private key, or else the server's secret."""
    try:
        key = read_key_file(arguments.key) if arguments.key else None
    except (OSError, ValueError) as error:
        raise TokenError(f"no token was made: {error}") from None
    return make_token(subject, seconds, settings, key, claims)
{% endif %}


if __name__ == "__main__":
    main()
