"""Make the moving pictures of the page: render a project, run it, and let two people talk.

uv run docs/screenshots.py

It needs Chromium or Chrome; they look best where the font Inter is installed.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cookiecutter.main import cookiecutter
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

DOCS = Path(__file__).parent
SOURCES = ("src", "packages/fastapi-realtime/src")
ANSWERS = {"project_name": "Tea House", "description": "Rooms for people who talk over tea."}
SIZE = {"width": 520, "height": 640}
"""Of the picture of each of the two, in pixels."""
SCHEMES = ("light", "dark")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def running_project() -> Iterator[str]:
    """Render a project, and run it; yield the address of its page."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(
            cookiecutter(
                str(DOCS.parent),
                no_input=True,
                extra_context=ANSWERS,
                output_dir=folder,
                accept_hooks=False,
                default_config=True,
            )
        )
        with subprocess.Popen(
            [sys.executable, "-m", "tea_house"],
            cwd=project,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(SOURCES), "APP_PORT": "0"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as server:
            try:
                yield address(server)
            finally:
                server.terminate()


def address(server: subprocess.Popen[str]) -> str:
    """Return the address that the log names at the start."""
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"Open (\S+) in a browser", line):
            return found[1]
    sys.exit("the server did not start")


def join(browser: Browser, url: str, name: str) -> Page:
    """Open the page as somebody in the room."""
    page = browser.new_page(viewport=SIZE, device_scale_factor=1)
    page.goto(f"{url}?room=tea&name={name}")
    expect(page.locator("#room .state")).to_have_text("Connected")
    return page


def say(page: Page, text: str, *hearers: Page) -> None:
    """Say something, and wait until the others have heard it."""
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    expect(page.locator("#room .out").last).to_contain_text(text)
    for hearer in hearers:
        expect(hearer.locator("#room .in").last).to_contain_text(text)


def talk(ann: Page, ben: Page) -> Iterator[int]:
    """Talk, with somebody who is away for a while; yield milliseconds for each picture."""
    yield 1000
    say(ben, "Morning! Is the Darjeeling in?", ann)
    yield 1500
    say(ann, "First flush. The kettle is on.", ben)
    yield 1500
    ann.get_by_role("button", name="Cut my network").click()
    expect(ann.locator("#room .state")).to_have_text("Offline")
    yield 2000
    say(ben, "Two cups, please.")
    yield 1200
    say(ben, "I come by at four.")
    yield 1200
    say(ann, "And some shortbread?")
    yield 2000
    ann.get_by_role("button", name="Restore my network").click()
    expect(ann.locator("#room .state")).to_have_text("Connected")
    expect(ben.locator("#room .in").last).to_contain_text("shortbread")
    yield 4000
    say(ben, "Shortbread, of course.", ann)
    yield 4000


def record(ann: Page, ben: Page) -> None:
    """Write a moving picture for each colour scheme, of both pages beside each other."""
    frames: dict[str, list[Image.Image]] = {scheme: [] for scheme in SCHEMES}
    durations = []
    for duration in talk(ann, ben):
        durations.append(duration)
        for scheme in SCHEMES:
            both = Image.new("RGB", (2 * SIZE["width"], SIZE["height"]))
            for index, page in enumerate((ann, ben)):
                page.emulate_media(color_scheme=scheme)
                page.locator("#room .transcript li").last.scroll_into_view_if_needed()
                page.evaluate("scrollTo(0, 0)")
                picture = Image.open(io.BytesIO(page.screenshot()))
                both.paste(picture, (index * SIZE["width"], 0))
            frames[scheme].append(both)
    for scheme, (first, *others) in frames.items():
        options = {"save_all": True, "append_images": others, "duration": durations, "loop": 0}
        first.save(DOCS / f"page-{scheme}.webp", lossless=True, method=6, **options)


def main() -> None:
    """Make all pictures."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit("There is no Chromium here. On Debian: apt-get install chromium")
    with running_project() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--disable-gpu"])
        record(join(browser, url, "Ann"), join(browser, url, "Ben"))
        browser.close()


if __name__ == "__main__":
    main()
