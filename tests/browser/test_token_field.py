"""The field for a token on the page, in a real browser."""

import pytest
from playwright.async_api import expect

from ..engine.serving import Serve
from .conftest import OpenPage
from .projects import Project, projects

pytestmark = [pytest.mark.anyio, projects("tokens", "json-only")]


async def test_a_token_is_asked_for_and_only_this_tab_keeps_it(
    open_page: OpenPage, serve: Serve, project: Project
) -> None:
    page = await open_page(serve(project.create_app()))
    field = page.get_by_label("Your token")
    buttons = await page.get_by_role("button", name="Join").all()
    buttons += await page.get_by_role("button", name="Connect").all()
    assert buttons
    for button in buttons:
        await button.click()
        await expect(field).to_be_focused()
        await field.blur()
    await field.fill(" abc.def.ghi ")
    await field.press("Enter")
    await page.reload()
    await expect(field).to_have_value("abc.def.ghi")
    other = await page.context.new_page()
    await other.goto(page.url)
    await expect(other.get_by_label("Your token")).to_have_value("")
    assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert "abc" not in page.url


async def test_a_click_selects_the_command_for_a_token(
    open_page: OpenPage, serve: Serve, project: Project
) -> None:
    page = await open_page(serve(project.create_app()))
    await page.locator(".command").click()
    selected = await page.evaluate("getSelection().toString()")
    assert selected.startswith(f"uv run {project.slug} token ")
