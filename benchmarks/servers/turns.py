"""Another application, and a route that returns the longest turn of its event loop in ms.

TURNS_OF=package.main:app uvicorn turns:app
"""

import asyncio
import os
import time
from typing import Any

from uvicorn.importer import import_from_string

inner: Any = import_from_string(os.environ["TURNS_OF"])
longest = 0.0
tasks: list[asyncio.Task[None]] = []


async def watch() -> None:
    """Run in every turn of the event loop, and keep the longest."""
    global longest
    before = time.perf_counter()
    while True:
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, before = max(longest, now - before), now


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer `/turns` and start again from zero; pass everything else on."""
    global longest
    if not tasks:
        tasks.append(asyncio.create_task(watch()))
    if scope["type"] != "http" or scope["path"] != "/turns":
        await inner(scope, receive, send)
        return
    body, longest = f"{1000 * longest:.3f}".encode(), 0.0
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
