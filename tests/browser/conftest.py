"""Rendered projects, and a browser for their pages."""

import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import cache
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect

from ..engine.conftest import clean_environment as clean_environment
from ..engine.conftest import serve as serve
from .projects import Project

OpenPage = Callable[..., Awaitable[Page]]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]
REFUSED = (
    "WebSocket connection to ",
    *(
        f"Failed to load resource: the server responded with a status of {n}"
        for n in (401, 403, 413, 422)
    ),
)
"""Begins what a browser logs about each refused handshake or request; some tests want that."""

expect.set_options(timeout=20_000)


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Project]:
    """Render a project, or return it where that has been done."""
    folder = tmp_path_factory.mktemp("projects")
    return cache(lambda name: Project(name, folder))


@pytest.fixture
def project(request: pytest.FixtureRequest, render: Callable[[str], Project]) -> Project:
    """The project that a test names by `projects`."""
    return render(request.param)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """One event loop for all tests with the browser, which lives in it."""
    return "asyncio"


def is_ci() -> bool:
    """Return whether a missing browser, or Node, is an error: in CI on Linux."""
    return os.environ.get("CI") == "true" and sys.platform == "linux"


def chromium() -> str:
    """Return the path of a Chromium; skip the test without one, but not in CI on Linux."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    assert not is_ci(), "there is no Chromium"
    pytest.skip("there is no Chromium")


@pytest.fixture(scope="session")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """A browser without windows."""
    path = chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        await browser.close()


@pytest.fixture
async def open_page(browser: Browser) -> AsyncIterator[OpenPage]:
    """Open a page as somebody who has no other one open; `ws:` in its URL is read as `http:`.

    No page may throw, load what is not there, or break its Content-Security-Policy.
    """
    problems: list[str] = []
    async with AsyncExitStack() as stack:

        async def open_page(url: str, before: str = "", **options: Any) -> Page:
            context = await browser.new_context(**options)
            stack.push_async_callback(context.close)
            context.on("weberror", lambda error: problems.append(str(error.error)))
            context.on(
                "console", lambda line: problems.append(line.text) if line.type == "error" else None
            )
            page = await context.new_page()
            await page.add_init_script(before)
            await page.goto(url.replace("ws:", "http:"))
            return page

        yield open_page
    assert [each for each in problems if not each.startswith(REFUSED)] == []


async def check_accessibility(page: Page) -> None:
    """Look for what axe-core finds, light and dark, on a desk and on a phone without scrolling."""
    for scheme in ("light", "dark"):
        for width in (1280, 360):
            await page.emulate_media(color_scheme=scheme)
            await page.set_viewport_size({"width": width, "height": 740})
            results = await Axe().run(page)
            assert results.violations_count == 0, results.generate_report()
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
