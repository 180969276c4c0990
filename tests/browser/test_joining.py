"""Joining a room on the page: names, and rooms that do not open."""

import re
from urllib.parse import urlencode

import pytest
from playwright.async_api import expect

from ..engine.serving import Serve, connect
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


@projects("open", "tokens")
@pytest.mark.parametrize(
    ("room", "reason"),
    [
        ("x" * 261, "422: room: 1 to 260 printable characters"),
        ("tea\u202e", "422: room: 1 to 260 printable characters"),
        ("user:Ben", "403: this room is not open to you"),
    ],
)
async def test_the_page_says_why_a_room_cannot_be_joined(
    open_page: OpenPage, serve: Serve, project: Project, room: str, reason: str
) -> None:
    url = f"{serve(project.create_app())}/?{urlencode({'room': room, 'name': 'Ann'})}"
    page = await open_page(url, project.keep_token("Ann"))
    await expect(page.locator("#room .state")).to_have_text("Not joined")
    await expect(lines(page, "end")).to_have_text([re.compile(f"^Refused with {reason}")])
    await page.get_by_label("Room", exact=True).fill("tea")
    await page.get_by_role("button", name="Join").click()
    await expect(page.locator("#room .state")).to_have_text("Connected")


@projects("open")
@pytest.mark.parametrize("room", ["", ".", "..", "+.."])
async def test_the_field_refuses_a_room_that_no_url_can_name(
    open_page: OpenPage, serve: Serve, project: Project, room: str
) -> None:
    page = await open_page(f"{serve(project.create_app())}/?room={room}")
    await expect(page.get_by_label("Room", exact=True)).to_be_focused()
    await expect(page.locator("#room .state")).to_have_text("Not joined")


@projects("tokens")
async def test_a_token_that_is_refused_is_explained_and_can_be_replaced(
    open_page: OpenPage, serve: Serve, project: Project
) -> None:
    url = f"{serve(project.create_app())}/?room=tea"
    page = await open_page(url, "sessionStorage.setItem('token', 'a.b.c')")
    await expect(lines(page, "end")).to_have_text([re.compile("^Refused with 401: ")])
    await page.get_by_label("Your token").fill(project.token("Ann"))
    await page.get_by_role("button", name="Join").click()
    await expect(page.locator("#room .state")).to_have_text("Connected")


@projects("open")
async def test_without_a_reason_the_page_still_says_that_there_is_no_connection(
    open_page: OpenPage, serve: Serve, project: Project
) -> None:
    app = project.create_app(max_connections=1)
    url = serve(app)
    page = await open_page(f"{url}/")
    await page.route("**/ws_broadcast/**", lambda route: route.fulfill(status=422))
    with connect(f"{url}/ws_broadcast/tea"):
        await page.get_by_role("button", name="Join").click()
        await expect(lines(page, "end")).to_have_text(
            [re.compile("^Closed with 1006: no connection")]
        )
