"""The page about the WebSocket routes, in a real browser."""

import pytest
from playwright.async_api import Page, expect

from ..engine.serving import Serve
from .conftest import OpenPage, check_accessibility
from .projects import Project, projects

pytestmark = pytest.mark.anyio

LOOK = """() => {
  const { backgroundColor, color, fontFamily, fontSize } = getComputedStyle(document.body);
  const { borderColor, borderRadius, backgroundColor: sheet } =
    getComputedStyle(document.querySelector("section"));
  const { color: link } = getComputedStyle(document.querySelector("nav a"));
  return [backgroundColor, color, fontFamily, fontSize, borderColor, borderRadius, sheet, link];
}"""


@pytest.fixture
async def page(open_page: OpenPage, serve: Serve, project: Project) -> Page:
    """The page of a running application."""
    return await open_page(f"{serve(project.create_app())}/asyncapi")


async def unfold(page: Page) -> None:
    """Unfold all that is folded."""
    await page.evaluate(
        "document.querySelectorAll('details').forEach(each => { each.open = true })"
    )


@projects("open", "tokens", "empty")
async def test_it_is_accessible_folded_and_unfolded(page: Page) -> None:
    await check_accessibility(page)
    await unfold(page)
    await check_accessibility(page)


@projects("open", "tokens")
async def test_it_is_short_until_somebody_unfolds_it(page: Page) -> None:
    for width, height in ((1280, 3000), (390, 4500)):
        await page.set_viewport_size({"width": width, "height": 740})
        assert await page.evaluate("document.documentElement.scrollHeight") < height


@projects("open")
async def test_it_looks_like_the_page_at_the_root(page: Page) -> None:
    looks = []
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        looks.append(await page.evaluate(LOOK))
    await page.get_by_role("link", name="Console").click()
    await expect(page.get_by_role("button", name="Join")).to_be_visible()
    await page.wait_for_load_state()  # with its style
    for scheme, look in zip(("light", "dark"), looks, strict=True):
        await page.emulate_media(color_scheme=scheme)
        assert await page.evaluate(LOOK) == look


@projects("open")
async def test_messages_and_codes_unfold(page: Page) -> None:
    for line, text in (("ErrorFrame", "rate_limited"), ("Close codes", "1008")):
        content = page.get_by_text(text).first
        await expect(content).to_be_hidden()
        await page.get_by_text(line, exact=True).first.click()
        await expect(content).to_be_visible()
