"""The room on the page: people in real browsers, and networks that break."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest
from fastapi import FastAPI
from fastapi_realtime import RealtimeDep
from playwright.async_api import Browser, Locator, Page, expect
from websockets.sync.client import ClientConnection

from ..engine.serving import NO_RATE_LIMIT, Serve, connect, running
from .conftest import OpenPage, check_accessibility
from .projects import Project, projects

pytestmark = [pytest.mark.anyio, projects("open", "tokens")]

Visit = Callable[[str, str], Awaitable[Page]]

COUNT_FRAMES = """
    window.frameCount = 0;
    const count = () => { frameCount += 1; requestAnimationFrame(count); };
    count();
"""
CLOSE_CODE = """
    (url) => new Promise((resolve) => {
        const socket = new WebSocket(url);
        socket.onopen = () => resolve("open");
        socket.onclose = ({ code }) => resolve(code);
    })
"""


def program(project: Project, url: str, name: str) -> ClientConnection:
    """Join the lobby without a browser."""
    headers = {"authorization": f"Bearer {project.token(name)}"} if project.has_tokens else {}
    return connect(f"{url}/ws_broadcast?name={name}", additional_headers=headers)


def flood(project: Project, url: str, count: int) -> None:
    """Send many messages to the lobby."""
    with program(project, url, "crowd") as client:
        for number in range(count):
            client.send(f"message {number}")


@pytest.fixture
def app(project: Project) -> FastAPI:
    """The application, with a route that breaks all connections."""
    app = project.create_app(**NO_RATE_LIMIT)

    @app.post("/test/break")
    async def break_all(realtime: RealtimeDep) -> None:
        for connection in [*realtime.connections]:
            assert connection.transport is not None
            connection.transport.abort()

    return app


@pytest.fixture
def arrive(open_page: OpenPage, project: Project) -> Visit:
    """Open the page at a URL as somebody who wants to join the lobby."""

    async def arrive(url: str, name: str) -> Page:
        return await open_page(f"{url}/?room=lobby&name={name}", project.keep_token(name))

    return arrive


@pytest.fixture
def enter(arrive: Visit) -> Visit:
    """Open the page at a URL as somebody who joins the lobby."""

    async def enter(url: str, name: str) -> Page:
        page = await arrive(url, name)
        await expect(page.locator("#room .state")).to_have_text("Connected")
        return page

    return enter


async def say(page: Page, *texts: str) -> None:
    """Type messages, and press Enter."""
    for text in texts:
        await page.get_by_label("Message", exact=True).fill(text)
        await page.keyboard.press("Enter")


def lines(page: Page, kind: str) -> Locator:
    """The texts of what somebody else said, or of notes of a kind."""
    return page.locator(f"#room .transcript .{kind} > span")


async def test_two_people_talk_and_see_each_other_come_and_go(
    enter: Visit, serve: Serve, app: FastAPI
) -> None:
    url = serve(app)
    ann = await enter(url, "Ann")
    ben = await enter(url, "Ben")
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
    enter: Visit, serve: Serve, app: FastAPI, project: Project
) -> None:
    ann = await enter(serve(app), "Ann")
    async with ann.context.expect_page() as opened:
        await ann.get_by_role("link", name="Open a second tab").click()
    ben = await opened.value
    if project.has_tokens:
        command = ben.locator(".command")
        await expect(command).not_to_have_text(await ann.locator(".command").inner_text())
        await expect(ben.get_by_label("Your token")).to_be_empty()
        await expect(ben.get_by_role("button", name="Join")).to_be_visible()
    else:
        field = ben.get_by_label("Your name")
        await expect(field).not_to_have_value("")
        name = await field.input_value()
        await expect(ann.locator("#members li")).to_have_text(sorted(["Ann", name]))
        await say(ben, "Hello")
        await expect(lines(ann, "in")).to_have_text(["Hello"])


async def test_what_is_said_while_the_network_is_cut_arrives_once_on_both_sides(
    enter: Visit, serve: Serve, app: FastAPI
) -> None:
    url = serve(app)
    ann = await enter(url, "Ann")
    ben = await enter(url, "Ben")
    await say(ann, "before")
    await expect(lines(ben, "in")).to_have_text(["before"])
    await ben.get_by_role("button", name="Cut my network").click()
    await expect(ben.locator("#room .state")).to_have_text("Offline")
    await expect(lines(ann, "quiet").last).to_have_text("Ben left")
    await say(ben, "first", "second")
    await expect(ben.locator("#room .out em")).to_have_text(["waiting", "waiting"])
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
    enter: Visit, serve: Serve, app: FastAPI
) -> None:
    ann = await enter(serve(app), "Ann")
    await ann.get_by_role("button", name="Cut my network").click()
    await say(ann, "first", "second")
    await expect(ann.locator("#room .out em")).to_have_text(["waiting", "waiting"])
    await ann.get_by_role("button", name="Leave").click()
    await expect(ann.locator("#room .state")).to_have_text("Not joined")
    await expect(ann.locator("#room .out em")).to_have_text(["Not sent", "Not sent"])
    await expect(ann.locator("#members li")).to_have_count(0)


async def test_broken_connections_lose_nothing_and_repeat_nothing(
    enter: Visit, serve: Serve, app: FastAPI
) -> None:
    url = serve(app)
    ann = await enter(url, "Ann")
    ben = await enter(url, "Ben")
    texts = [f"message {number}" for number in range(12)]
    for number in range(0, 12, 4):
        await say(ann, *texts[number : number + 4])
        await ann.request.post(f"{url.replace('ws:', 'http:')}/test/break")
        await say(ben, f"answer {number}")
    await expect(lines(ben, "in")).to_have_text(texts)
    await expect(lines(ann, "in")).to_have_text(["answer 0", "answer 4", "answer 8"])


async def test_a_gap_is_shown_and_talk_goes_on_after_a_restart_of_the_server(
    enter: Visit, app: FastAPI, project: Project
) -> None:
    with ExitStack() as first:
        url = first.enter_context(running(app))
        ann = await enter(url, "Ann")
        ben = await enter(url, "Ben")
        await say(ann, "before")
        await expect(lines(ben, "in")).to_have_text(["before"])
        await asyncio.to_thread(first.close)
        for page in (ann, ben):
            await expect(page.locator("#room .state")).to_have_text("Connecting")
        await say(ann, "meanwhile")
        port = int(url.rpartition(":")[2])
        with running(project.create_app(), port=port):
            await expect(lines(ben, "in")).to_have_text(["before", "meanwhile"])
            await expect(ben.locator("#members li")).to_have_text(["Ann", "Ben"])
            await expect(lines(ben, "gap")).to_have_text(["Messages may be missing here"])
            await expect(lines(ben, "away").last).to_have_text("You are back")
            await say(ben, "after")
            await expect(lines(ann, "in")).to_have_text(["after"])


async def test_somebody_who_is_refused_is_told_and_gets_in_later(
    arrive: Visit, serve: Serve, project: Project
) -> None:
    url = serve(project.create_app(max_connections=1))
    with program(project, url, "Ann"):
        ben = await arrive(url, "Ben")
        await expect(lines(ben, "end")).to_contain_text(["Closed with 1006: no connection."])
    await expect(ben.locator("#room .state")).to_have_text("Connected")


async def test_html_in_a_message_is_text(
    enter: Visit, serve: Serve, app: FastAPI, project: Project
) -> None:
    url = serve(app)
    html = "<img src=x onerror=alert(1)> <script>alert(2)</script> <b>bold</b> &amp;"
    ben = await enter(url, "Ben")
    with program(project, url, "<i>Ann</i>") as ann:
        ann.send(html)
        await expect(lines(ben, "in")).to_have_text([html])
        await expect(ben.locator("#members li")).to_have_text(["<i>Ann</i>", "Ben"])
    await expect(ben.locator("#room li :is(img, script, i, b b)")).to_have_count(0)


async def test_a_flood_of_messages_leaves_the_page_responsive(
    enter: Visit, serve: Serve, app: FastAPI, project: Project
) -> None:
    url = serve(app)
    ann = await enter(url, "Ann")
    await ann.evaluate(COUNT_FRAMES)
    flooding = asyncio.create_task(asyncio.to_thread(flood, project, url, 5000))
    await expect(lines(ann, "in").last).to_contain_text("message")
    await say(ann, "typed meanwhile")
    await flooding
    await expect(lines(ann, "in").last).to_have_text("message 4999")
    assert await ann.locator("#room .transcript li").count() == 200
    assert await ann.evaluate("frameCount") > 5
    await expect(lines(ann, "in").last).to_be_in_viewport()


async def test_a_page_of_another_origin_is_refused(
    browser: Browser,
    enter: Visit,
    serve: Serve,
    app: FastAPI,
    project: Project,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = serve(app)
    ann = await enter(url, "Ann")
    elsewhere = serve(project.create_app()).replace("ws:", "http:")
    foreign = await browser.new_page()
    await foreign.goto(f"{elsewhere}/livez")
    code = await foreign.evaluate(CLOSE_CODE, f"{url}/ws_broadcast/lobby?name=Eve")
    await foreign.close()
    assert code == 1006
    statuses = [vars(each)["status"] for each in caplog.records if each.msg == "refused"]
    assert statuses == [403]
    await expect(ann.locator("#members li")).to_have_text(["Ann"])
