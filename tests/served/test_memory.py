"""What a real server holds while its members send more at once than they read."""

import asyncio
import re
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from ..conftest import Bake, run
from .test_served import running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

HANDSHAKE = (
    b"GET /ws_broadcast HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
MESSAGE = b"\x81\xfe" + (8000).to_bytes(2, "big") + bytes(4) + b"x" * 8000


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has held so far."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(peak) / 1024


def read_all(log: IO[str]) -> None:
    """Read what a server says, which would block it otherwise."""
    with suppress(ValueError):  # it is closed in the end
        for _ in log:
            pass


async def speak_at_once(port: int, members: int, messages: int) -> int:
    """Let all members of a room send at once and read slowly, until the server has read it all.

    Returns the bytes sent.
    """
    loop = asyncio.get_running_loop()

    async def join() -> socket.socket:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await loop.sock_connect(raw, ("127.0.0.1", port))
        await loop.sock_sendall(raw, HANDSHAKE)
        assert (await loop.sock_recv(raw, 12)) == b"HTTP/1.1 101"
        return raw

    async def speak(raw: socket.socket) -> None:
        with suppress(ConnectionError):  # who reads too slowly is cut off
            await loop.sock_sendall(raw, MESSAGE * messages)

    async def read_slowly(raw: socket.socket) -> None:
        with suppress(ConnectionError):
            while await loop.sock_recv(raw, 2000):
                await asyncio.sleep(0.05)

    raws = [await join() for _ in range(members)]
    readers = [asyncio.create_task(read_slowly(raw)) for raw in raws]
    await asyncio.gather(*(speak(raw) for raw in raws))
    await asyncio.wait(readers, timeout=5)  # the peak comes within two
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    for raw in raws:
        raw.close()
    return members * messages * len(MESSAGE)


@pytest.mark.parametrize(("members", "messages"), [(200, 10), (1000, 1)])
def test_members_that_send_at_once_and_read_slowly_cost_a_few_times_what_they_sent(
    bake: Bake, environment: Path, members: int, messages: int
) -> None:
    project = bake().project_path
    run("uv", "sync", cwd=project, PYTHONPATH="")  # `uv run` would be another process
    settings = {
        "APP_PORT": "0",
        "APP_JOINS_PER_SECOND_PER_IP": "inf",
        "APP_MAX_CONNECTIONS_PER_IP": "2000",
    }
    command = str(environment / "bin/my-websocket-app")
    with running(project, command, **settings) as (where, server):
        threading.Thread(target=read_all, args=[server.stdout]).start()
        before = peak_mib(server.pid)
        sent = asyncio.run(speak_at_once(int(where.partition(":")[2]), members, messages))
        growth = peak_mib(server.pid) - before
    connections = members * 64 / 1024
    assert growth < 4 * sent / 2**20 + connections
