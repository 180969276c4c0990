"""The field for a token on the page, in a real browser."""

import pytest
from fastapi import FastAPI
from playwright.async_api import expect

from ..realtime.serving import Serve
from .conftest import OpenPage

pytestmark = pytest.mark.anyio


async def test_a_token_is_asked_for_and_only_this_tab_keeps_it(
    open_page: OpenPage, serve: Serve, app: FastAPI
) -> None:
    page = await open_page(serve(app).replace("ws:", "http:"))
    field = page.get_by_label("Your token")
    for button in await page.get_by_role("button", name="Join").all():
        await button.click()
        await expect(field).to_be_focused()
    await field.fill(" abc.def.ghi ")
    await field.press("Enter")
    await page.reload()
    await expect(field).to_have_value("abc.def.ghi")
    other = await page.context.new_page()
    await other.goto(page.url)
    await expect(other.get_by_label("Your token")).to_have_value("")
    assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert "abc" not in page.url


async def test_the_command_for_a_token_can_be_copied(
    open_page: OpenPage, serve: Serve, app: FastAPI
) -> None:
    url = serve(app).replace("ws:", "http:")
    page = await open_page(url, permissions=["clipboard-read", "clipboard-write"])
    await page.get_by_role("button", name="Copy").click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("uv run {{ cookiecutter.project_slug }} token Ann")
