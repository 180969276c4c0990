"""Joining a room on the page: names, and rooms that do not open."""

import re

import pytest
from playwright.async_api import expect

from ..engine.serving import Serve
from .conftest import OpenPage
from .projects import Project, projects
from .test_room_page import lines

pytestmark = pytest.mark.anyio


@projects("open")
async def test_two_strangers_have_different_names(
    open_page: OpenPage, serve: Serve, project: Project
) -> None:
    url = serve(project.create_app())
    names = []
    for _ in range(2):
        page = await open_page(url)
        names.append(await page.get_by_label("Your name").input_value())
        await page.get_by_role("button", name="Join").click()
        await expect(lines(page, "quiet")).to_have_text([f"You joined as {names[-1]}"])
        await page.reload()
        await expect(page.get_by_label("Your name")).to_have_value(names[-1])
    for name in names:
        assert re.fullmatch("[A-Z][a-z]+-[0-9a-f]{4}", name)
    await expect(page.locator("#members li")).to_have_text(sorted(names))
