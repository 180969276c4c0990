"""The command `{{ cookiecutter.project_slug }}`: the application on uvicorn, set up for WebSockets."""

import argparse
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from .main import app
from .settings import Settings

# uvicorn's own, and the same for what this package logs.
LOG_CONFIG: dict[str, Any] = LOGGING_CONFIG | {
    "loggers": LOGGING_CONFIG["loggers"]
    | {__package__: {"handlers": ["default"], "level": "INFO", "propagate": False}}
}


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
        log_config=LOG_CONFIG,
    )


if __name__ == "__main__":
    main()
