"""The command `{{ cookiecutter.project_slug }}`: the application on uvicorn, set up for WebSockets."""

import argparse

import uvicorn

from .main import app
from .settings import Settings


def main() -> None:
    """Serve until Ctrl-C or SIGTERM; open connections then get 1012, and some time to end."""
    argparse.ArgumentParser(
        prog="{{ cookiecutter.project_slug }}",
        description="Run the server. Its settings are APP_* variables, listed in README.md.",
    ).parse_args()
    settings: Settings = app.state.settings
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        ws_max_size=settings.max_message_bytes,
        # Compression costs 32 KiB a connection, and CPU for every copy of a broadcast.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=settings.drain_seconds,
    )


if __name__ == "__main__":
    main()
