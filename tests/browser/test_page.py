"""The page, in a real browser."""

import pytest
from fastapi import FastAPI
{% if cookiecutter.include_echo or cookiecutter.include_json %}
from playwright.async_api import Locator, Page, expect
{% else %}
from playwright.async_api import Page
{% endif %}

{% if cookiecutter.include_echo or cookiecutter.include_json %}
from {{ cookiecutter.__package_name }}.application import create_app

{% if cookiecutter.auth == "jwt" %}
from ..conftest import bearer, settings
{% else %}
from ..conftest import settings
{% endif %}
{% endif %}
from ..realtime.serving import Serve
from .conftest import OpenPage, check_accessibility

pytestmark = pytest.mark.anyio
{% if cookiecutter.auth == "jwt" and (cookiecutter.include_echo or cookiecutter.include_json) %}


def keep_token() -> str:
    """Return a script that gives the page a token."""
    token = bearer("zoe")["authorization"].removeprefix("Bearer ")
    return f"sessionStorage.setItem('token', '{token}')"
{% endif %}


@pytest.fixture
async def page(open_page: OpenPage, serve: Serve, app: FastAPI) -> Page:
    """The page of a running application."""
{% if cookiecutter.auth == "jwt" and (cookiecutter.include_echo or cookiecutter.include_json) %}
    return await open_page(serve(app).replace("ws:", "http:"), keep_token())
{% else %}
    return await open_page(serve(app).replace("ws:", "http:"))
{% endif %}


async def test_it_is_accessible_light_and_dark_on_a_desk_and_on_a_phone(page: Page) -> None:
{% if cookiecutter.include_echo or cookiecutter.include_json %}
    for console in await page.locator("[data-endpoint]").all():
        await connect(console)
{% endif %}
    await check_accessibility(page)
{% if cookiecutter.include_echo or cookiecutter.include_json %}


async def connect(console: Locator) -> None:
    """Connect a console."""
    await console.get_by_role("button", name="Connect").click()
    await expect(console.get_by_text("Connected", exact=True)).to_be_visible()
{% endif %}
{% if cookiecutter.include_echo %}


async def test_the_echo_console_shows_text_bytes_and_the_end(page: Page) -> None:
    console = page.locator("[data-endpoint=ws]")
    await connect(console)
    log = console.get_by_role("log")
    await console.get_by_label("Text").fill("<b>tea</b>")
    await console.get_by_label("Text").press("Enter")
    await expect(log).to_contain_text("serverMessage text was: <b>tea</b>")
    await console.get_by_label("Text").fill("Zoë")
    await console.get_by_role("button", name="Send as bytes").click()
    await expect(log.locator(".out")).to_contain_text(["<b>tea</b>", "4 bytes: 5a 6f c3 ab"])
    await expect(log.locator(".in")).to_contain_text(["", "4 bytes: 5a 6f c3 ab"])
    await console.get_by_role("button", name="Disconnect").click()
    await expect(log).to_contain_text("Closed with 1000: closed normally.")
{% endif %}
{% if cookiecutter.include_json %}


async def test_the_json_console_shows_answers_and_errors(page: Page) -> None:
    console = page.locator("[data-endpoint=ws_json]")
    await connect(console)
    for text, answer in (('{"tea": 2}', '"data":{"tea":2}'), ("{", '"code":"invalid_json"')):
        await console.get_by_label("JSON", exact=True).fill(text)
        await console.get_by_role("button", name="Send").click()
        await expect(console.get_by_role("log").locator(".in").last).to_contain_text(answer)
{% endif %}
{% if cookiecutter.include_echo or cookiecutter.include_json %}


async def test_a_refused_handshake_is_explained(open_page: OpenPage, serve: Serve) -> None:
    url = serve(create_app(settings(max_connections=1))).replace("ws:", "http:")
{% if cookiecutter.auth == "jwt" %}
    pages = [await open_page(url, keep_token()) for _ in range(2)]
{% else %}
    pages = [await open_page(url) for _ in range(2)]
{% endif %}
    first, second = [page.locator("[data-endpoint]").first for page in pages]
    await connect(first)
    await second.get_by_role("button", name="Connect").click()
    await expect(second.get_by_role("log")).to_contain_text("Closed with 1006: no connection.")
{% endif %}
