"""The page, in a real browser: the consoles, and what holds for all of it."""

import pytest
from playwright.async_api import Locator, Page, expect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..engine.serving import Serve
from .conftest import OpenPage, check_accessibility
from .projects import Project, projects

pytestmark = pytest.mark.anyio


@pytest.fixture
async def page(open_page: OpenPage, serve: Serve, project: Project) -> Page:
    """The page of a running application, with a token where it needs one."""
    return await open_page(serve(project.create_app()), project.keep_token("zoe"))


async def connect(console: Locator) -> None:
    """Connect a console."""
    await console.get_by_role("button", name="Connect").click()
    await expect(console.get_by_text("Connected", exact=True)).to_be_visible()


@projects("open", "tokens", "json-only", "empty")
async def test_it_is_accessible_light_and_dark_on_a_desk_and_on_a_phone(
    page: Page,
) -> None:
    for console in await page.locator("[data-endpoint]").all():
        await connect(console)
    await check_accessibility(page)


@projects("empty")
async def test_without_endpoints_it_says_how_to_add_one(page: Page) -> None:
    await expect(page.get_by_role("heading", name="No endpoint yet")).to_be_visible()
    await expect(page.locator("script[src]")).to_have_count(0)


@projects("open", "tokens")
async def test_the_echo_console_shows_text_bytes_and_the_end(page: Page) -> None:
    console = page.locator("[data-endpoint=ws]")
    await connect(console)
    log = console.get_by_role("log")
    await console.get_by_label("Text").fill("<b>tea</b>")
    await console.get_by_label("Text").press("Enter")
    await expect(log).to_contain_text("serverMessage text was: <b>tea</b>")
    await console.get_by_label("Text").fill("Zoë\t")
    await console.get_by_role("button", name="Send as bytes").click()
    await expect(log.locator(".out")).to_contain_text(["<b>tea</b>", "5 bytes: 5a 6f c3 ab 09"])
    await expect(log.locator(".in")).to_contain_text(["", "5 bytes: 5a 6f c3 ab 09"])
    await console.get_by_role("button", name="Disconnect").click()
    await expect(log).to_contain_text("Closed with 1000: closed normally.")


@projects("open")
async def test_a_long_message_is_shortened(page: Page) -> None:
    console = page.locator("[data-endpoint=ws]")
    await connect(console)
    await console.get_by_label("Text").fill("x" * 3000)
    await console.get_by_label("Text").press("Enter")
    shortened = f"{'x' * 2000}… (3000 characters)"
    await expect(console.locator(".out span")).to_have_text(shortened)


@projects("open", "tokens", "json-only")
async def test_the_json_console_shows_answers_and_errors(page: Page) -> None:
    console = page.locator("[data-endpoint=ws_json]")
    await connect(console)
    for text, answer in (('{"tea": 2}', '"data":{"tea":2}'), ("{", '"code":"invalid_json"')):
        await console.get_by_label("JSON", exact=True).fill(text)
        await console.get_by_role("button", name="Send").click()
        await expect(console.get_by_role("log").locator(".in").last).to_contain_text(answer)


@projects("open", "tokens")
async def test_a_refused_handshake_is_explained(
    open_page: OpenPage, serve: Serve, project: Project
) -> None:
    url = serve(project.create_app(max_connections=1))
    pages = [await open_page(url, project.keep_token("zoe")) for _ in range(2)]
    first, second = [page.locator("[data-endpoint]").first for page in pages]
    await connect(first)
    await second.get_by_role("button", name="Connect").click()
    may_be = "The token may be" if project.has_tokens else "The page's origin may not be"
    expected = f"Closed with 1006: no connection. {may_be}"
    await expect(second.get_by_role("log")).to_contain_text(expected)


class StripPrefix:
    """Middleware in place of a proxy that strips a prefix; other paths lead to another site."""

    def __init__(self, app: ASGIApp, elsewhere: list[str]) -> None:
        self.app = app
        self.elsewhere = elsewhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            prefix, _, path = scope["path"].lstrip("/").partition("/")
            if prefix != "tea":
                self.elsewhere.append(scope["path"])
                return await Response("another site")(scope, receive, send)
            scope = {**scope, "path": f"/{path}", "raw_path": f"/{path}".encode()}
        return await self.app(scope, receive, send)


@projects("open")
@pytest.mark.parametrize("path", ["/tea/", "/tea", "/tea/index.html"])
async def test_it_works_behind_a_proxy_that_strips_a_prefix(
    open_page: OpenPage, serve: Serve, project: Project, path: str
) -> None:
    app = project.create_app()
    elsewhere: list[str] = []
    app.add_middleware(StripPrefix, elsewhere)
    page = await open_page(f"{serve(app)}{path}?room=lobby&name=Ann")
    await expect(page.locator("#room .state")).to_have_text("Connected")
    for console in await page.locator("[data-endpoint]").all():
        await connect(console)
    for name in ("HTTP API", "Open a second tab"):
        link = page.get_by_role("link", name=name)
        assert "/tea/" in await link.evaluate("link => link.href")
    await expect(page.locator("header")).to_have_css("display", "flex")
    assert await page.locator("header img").evaluate("image => image.naturalWidth") > 0
    # Chromium looks ahead for files before a script has run.
    assert not elsewhere or path == "/tea"
