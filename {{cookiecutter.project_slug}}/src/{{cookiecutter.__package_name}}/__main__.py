"""The command `{{ cookiecutter.project_slug }}`: run the server{% if cookiecutter.auth == "jwt" %}, make keys and tokens{% endif %}."""

import argparse
{% if cookiecutter.include_broadcast %}
import logging
{% endif %}
import sys
{% if cookiecutter.auth == "jwt" %}
from pathlib import Path
{% endif %}

from .realtime import SettingsError, load_settings, serve
{% if cookiecutter.auth == "jwt" %}
from .realtime.tokens import TokenError, make_token, new_secret, read_key_file
{% endif %}
from .settings import Settings


def main() -> None:
    """Run the server until Ctrl-C or SIGTERM{% if cookiecutter.auth == "jwt" %}, or print a key or a token{% endif %}."""
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
        return
{% else %}
    parser.parse_args()
{% endif %}
    try:
        settings = load_settings(Settings)
    except SettingsError as error:
        sys.exit(str(error))
{% if cookiecutter.auth == "jwt" %}
    if arguments.command == "token":
        try:
            key = read_key_file(arguments.key) if arguments.key else None
            print(make_token(arguments.subject, 60 * arguments.minutes, settings, key))
        except (OSError, TokenError, ValueError) as error:
            parser.error(f"no token was made: {error}")
        return
{% endif %}
{% if cookiecutter.include_broadcast %}
    if settings.workers > 1:
        message = "rooms live in one process: APP_WORKERS > 1 splits them"
        logging.getLogger(__package__).warning(message)
{% endif %}
    serve(f"{__package__}.main:app", settings)


if __name__ == "__main__":
    main()
