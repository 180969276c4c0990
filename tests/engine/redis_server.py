"""A real Redis for tests, which can be stopped, killed and started again."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi_realtime.rooms import Rooms
from fastapi_realtime.rooms.redis import (
    RedisSettings,
    redis_broker,
)
from fastapi_realtime.rooms.redis.scripts import Keys
from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError

from .brokers import MakeRooms

REDIS_SERVER = os.environ.get("REDIS_SERVER", "redis-server")
"""The server to test with; `valkey-server` takes the same options."""
NOT_SAVED = ("--save", "", "--appendonly", "no")
SAVED = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
"""With these options, nothing is lost that Redis has confirmed."""


KEYS = Keys("fastapi_realtime")
"""The keys of applications whose settings are the engine's own."""


class RedisServer:
    """A server at a Unix socket in a folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [REDIS_SERVER, "--port", "0", "--unixsocket", str(self.socket)]
        command += [
            "--repl-diskless-sync-delay",
            "0",
            "--dir",
            str(self._folder),
            "--logfile",
            "log",
            *self._options,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self._is_up():
            is_starting = self._process.poll() is None and time.monotonic() < deadline
            assert is_starting, (self._folder / "log").read_text()
            time.sleep(0.01)  # it has no other way to tell

    def stop(self, *, kill: bool = False) -> None:
        """Stop, or kill with -9, and wait for the end."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait()

    def call(self, *command: str | int | bytes) -> Any:
        """Send a command, and return the answer."""
        with closing(Redis.from_url(self.url)) as client:
            return client.execute_command(*command)

    def _is_up(self) -> bool:
        try:
            self.call("PING")
        except AuthenticationError:
            return True
        except ConnectionError:
            return False
        return True


def need_redis() -> None:
    """Skip the test where there is no server, but not in CI on Linux."""
    if shutil.which(REDIS_SERVER) is None:
        is_demanded = os.environ.get("CI") == "true" and sys.platform == "linux"
        assert not is_demanded, f"there is no {REDIS_SERVER}"
        pytest.skip(f"there is no {REDIS_SERVER}")


@contextmanager
def running_redis(*options: str) -> Generator[RedisServer]:
    """Run a server with these options; see `need_redis`."""
    need_redis()
    # The path of a socket has at most 107 characters; the default folder may have more.
    with tempfile.TemporaryDirectory(prefix="redis-", dir="/tmp") as folder:
        server = RedisServer(Path(folder), *(options or NOT_SAVED))
        try:
            server.start()
            yield server
        finally:
            server.stop(kill=True)


def rooms_at(url: str, **settings: Any) -> Rooms:
    """Rooms that this Redis carries."""
    known = RedisSettings.model_validate({"broker_url": url} | settings)
    return Rooms(known, broker=redis_broker)


@contextmanager
def redis_rooms() -> Generator[MakeRooms]:
    """Rooms that a Redis of their own carries."""
    with running_redis() as server:
        yield lambda **settings: rooms_at(server.url, **settings)
