"""The room on the page: people in real browsers, and networks that break."""

import asyncio
from contextlib import ExitStack

import pytest
from fastapi import FastAPI
from playwright.async_api import Browser, Locator, Page, expect
from websockets.sync.client import ClientConnection

from {{ cookiecutter.__package_name }}.application import create_app
from fastapi_realtime import EngineDep

{% if cookiecutter.auth == "jwt" %}
from ..conftest import bearer, settings
from ..realtime.serving import NO_RATE_LIMIT, Serve, connect, running
{% else %}
from ..conftest import settings
from ..realtime.serving import NO_RATE_LIMIT, Serve, connect, running
{% endif %}
from .conftest import OpenPage, check_accessibility

pytestmark = pytest.mark.anyio

COUNT_FRAMES = """
    window.frames = 0;
    const count = () => { frames += 1; requestAnimationFrame(count); };
    count();
"""
CLOSE_CODE = """
    (url) => new Promise((resolve) => {
        const socket = new WebSocket(url);
        socket.onopen = () => resolve("open");
        socket.onclose = ({ code }) => resolve(code);
    })
"""


def program(url: str, name: str) -> ClientConnection:
    """Join the lobby without a browser."""
{% if cookiecutter.auth == "jwt" %}
    return connect(f"{url}/ws_broadcast", additional_headers=bearer(name))
{% else %}
    return connect(f"{url}/ws_broadcast?name={name}")
{% endif %}


def flood(url: str, count: int) -> None:
    """Send many messages to the lobby."""
    with program(url, "crowd") as client:
        for number in range(count):
            client.send(f"message {number}")


@pytest.fixture
def app() -> FastAPI:
    """The application, with a route that breaks all connections."""
    app = create_app(settings(**NO_RATE_LIMIT))

    @app.post("/test/break")
    async def break_all(engine: EngineDep) -> None:
        for connection in [*engine.connections]:
            assert connection.transport is not None
            connection.transport.abort()

    return app


async def arrive(open_page: OpenPage, url: str, name: str) -> Page:
    """Open the page as somebody who wants to join the lobby."""
    url = f"{url.replace('ws:', 'http:')}/?room=lobby&name={name}"
{% if cookiecutter.auth == "jwt" %}
    token = bearer(name)["authorization"].removeprefix("Bearer ")
    return await open_page(url, f"sessionStorage.setItem('token', '{token}')")
{% else %}
    return await open_page(url)
{% endif %}


async def member(open_page: OpenPage, url: str, name: str) -> Page:
    """Open the page as somebody who joins the lobby."""
    page = await arrive(open_page, url, name)
    await expect(page.locator("#room .state")).to_have_text("Connected")
    return page


async def say(page: Page, *texts: str) -> None:
    """Type messages, and press Enter."""
    for text in texts:
        await page.get_by_label("Message", exact=True).fill(text)
        await page.keyboard.press("Enter")


def lines(page: Page, kind: str) -> Locator:
    """The texts of what somebody else said, or of notes of a kind."""
    return page.locator(f"#room .transcript .{kind} > span")


async def test_two_people_talk_and_see_each_other_come_and_go(
    open_page: OpenPage, serve: Serve, app: FastAPI
) -> None:
    url = serve(app)
    ann = await member(open_page, url, "Ann")
    ben = await member(open_page, url, "Ben")
    for page in (ann, ben):
        await expect(page.locator("#members li")).to_have_text(["Ann", "Ben"])
    await say(ann, "tea?")
    await expect(lines(ben, "in")).to_have_text(["tea?"])
    await say(ben, "oolong", "please")
    await expect(lines(ann, "in")).to_have_text(["oolong", "please"])
    await ben.get_by_role("button", name="Leave").click()
    await expect(lines(ben, "end")).to_contain_text(["Closed with 1000"])
    await expect(lines(ann, "quiet")).to_have_text(["You joined as Ann", "Ben joined", "Ben left"])
    await expect(ann.locator("#members li")).to_have_text(["Ann"])


async def test_a_second_tab_is_somebody_else(
    open_page: OpenPage, serve: Serve, app: FastAPI
) -> None:
    ann = await member(open_page, serve(app), "Ann")
    async with ann.context.expect_page() as opened:
        await ann.get_by_role("link", name="Open a second tab").click()
    ben = await opened.value
{% if cookiecutter.auth == "jwt" %}
    await expect(ben.locator("#command")).to_contain_text("token Ben")
    await expect(ben.get_by_label("Your token")).to_be_empty()
    await expect(ben.get_by_role("button", name="Join")).to_be_visible()
{% else %}
    await expect(ann.locator("#members li")).to_have_text(["Ann", "Ben"])
    await say(ben, "Hello")
    await expect(lines(ann, "in")).to_have_text(["Hello"])
{% endif %}


async def test_what_is_said_while_the_network_is_cut_arrives_once_on_both_sides(
    open_page: OpenPage, serve: Serve, app: FastAPI
) -> None:
    url = serve(app)
    ann = await member(open_page, url, "Ann")
    ben = await member(open_page, url, "Ben")
    await say(ann, "before")
    await expect(lines(ben, "in")).to_have_text(["before"])
    await ben.get_by_role("button", name="Cut my network").click()
    await expect(ben.locator("#room .state")).to_have_text("Offline")
    await expect(lines(ann, "quiet").last).to_have_text("Ben left")
    await say(ben, "first", "second")
    await expect(ben.locator("#room .state")).to_have_text("Offline; 2 waiting to be sent")
    await say(ann, "missed", "missed, too")
    await ben.get_by_role("button", name="Restore my network").click()
    await expect(ben.locator("#room .state")).to_have_text("Connected")
    await expect(ann.locator("#members li")).to_have_text(["Ann", "Ben"])
    await expect(lines(ben, "missed")).to_have_text(["missed", "missed, too"])
    await expect(lines(ben, "away")).to_have_text(["While you were away", "You are back"])
    await expect(lines(ann, "in")).to_have_text(["first", "second"])
    await say(ann, "after")
    await expect(lines(ben, "in")).to_have_text(["before", "missed", "missed, too", "after"])
    await expect(lines(ben, "gap")).to_have_count(0)
    await check_accessibility(ben)


async def test_leaving_with_the_network_cut_sends_nothing_and_says_so(
    open_page: OpenPage, serve: Serve, app: FastAPI
) -> None:
    ann = await member(open_page, serve(app), "Ann")
    await ann.get_by_role("button", name="Cut my network").click()
    await say(ann, "first", "second")
    await expect(ann.locator("#room .state")).to_have_text("Offline; 2 waiting to be sent")
    await ann.get_by_role("button", name="Leave").click()
    await expect(ann.locator("#room .state")).to_have_text("Not joined")
    await expect(ann.locator("#room .out em")).to_have_text(["Not sent", "Not sent"])
    await expect(ann.locator("#members li")).to_have_text(["Join to see who is there."])


async def test_broken_connections_lose_nothing_and_repeat_nothing(
    open_page: OpenPage, serve: Serve, app: FastAPI
) -> None:
    url = serve(app)
    ann = await member(open_page, url, "Ann")
    ben = await member(open_page, url, "Ben")
    texts = [f"message {number}" for number in range(12)]
    for number in range(0, 12, 4):
        await say(ann, *texts[number : number + 4])
        await ann.request.post(f"{url.replace('ws:', 'http:')}/test/break")
        await say(ben, f"answer {number}")
    await expect(lines(ben, "in")).to_have_text(texts)
    await expect(lines(ann, "in")).to_have_text(["answer 0", "answer 4", "answer 8"])


async def test_a_gap_is_shown_and_talk_goes_on_after_a_restart_of_the_server(
    open_page: OpenPage, app: FastAPI
) -> None:
    with ExitStack() as first:
        url = first.enter_context(running(app))
        ann = await member(open_page, url, "Ann")
        ben = await member(open_page, url, "Ben")
        await say(ann, "before")
        await expect(lines(ben, "in")).to_have_text(["before"])
        await asyncio.to_thread(first.close)
        for page in (ann, ben):
            await expect(page.locator("#room .state")).to_have_text("Connecting")
        await say(ann, "meanwhile")
        port = int(url.rpartition(":")[2])
        with running(create_app(settings()), port=port):
            await expect(lines(ben, "in")).to_have_text(["before", "meanwhile"])
            await expect(ben.locator("#members li")).to_have_text(["Ann", "Ben"])
            await expect(lines(ben, "gap")).to_have_text(["Messages may be missing here"])
            await expect(lines(ben, "away").last).to_have_text("You are back")
            await say(ben, "after")
            await expect(lines(ann, "in")).to_have_text(["after"])


async def test_somebody_who_is_refused_is_told_and_gets_in_later(
    open_page: OpenPage, serve: Serve
) -> None:
    url = serve(create_app(settings(max_connections=1)))
    with program(url, "Ann"):
        ben = await arrive(open_page, url, "Ben")
        await expect(lines(ben, "end")).to_contain_text(["Closed with 1006: no connection."])
    await expect(ben.locator("#room .state")).to_have_text("Connected")


async def test_html_in_a_message_is_text(open_page: OpenPage, serve: Serve, app: FastAPI) -> None:
    url = serve(app)
    html = "<img src=x onerror=alert(1)> <script>alert(2)</script> <b>bold</b> &amp;"
    ben = await member(open_page, url, "Ben")
    with program(url, "<i>Ann</i>") as ann:
        ann.send(html)
        await expect(lines(ben, "in")).to_have_text([html])
        await expect(ben.locator("#members li")).to_have_text(["<i>Ann</i>", "Ben"])
    await expect(ben.locator("#room li :is(img, script, i, b b)")).to_have_count(0)


async def test_a_flood_of_messages_leaves_the_page_responsive(
    open_page: OpenPage, serve: Serve, app: FastAPI
) -> None:
    url = serve(app)
    ann = await member(open_page, url, "Ann")
    await ann.evaluate(COUNT_FRAMES)
    flooding = asyncio.create_task(asyncio.to_thread(flood, url, 5000))
    await expect(lines(ann, "in").last).to_contain_text("message")
    await say(ann, "typed meanwhile")
    await flooding
    await expect(lines(ann, "in").last).to_have_text("message 4999")
    assert await ann.locator("#room .transcript li").count() == 200
    assert await ann.evaluate("frames") > 5


async def test_a_page_of_another_origin_is_refused(
    browser: Browser,
    open_page: OpenPage,
    serve: Serve,
    app: FastAPI,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = serve(app)
    ann = await member(open_page, url, "Ann")
    elsewhere = serve(create_app(settings())).replace("ws:", "http:")
    foreign = await browser.new_page()
    await foreign.goto(f"{elsewhere}/livez")
    code = await foreign.evaluate(CLOSE_CODE, f"{url}/ws_broadcast/lobby?name=Eve")
    await foreign.close()
    assert code == 1006
    statuses = [vars(each)["status"] for each in caplog.records if each.msg == "refused"]
    assert statuses == [403]
    await expect(ann.locator("#members li")).to_have_text(["Ann"])
