"""Take the pictures of the page: render a project, run it, and let people talk.

uv run docs/screenshots.py

It needs Chromium or Chrome; the pictures look best where the font Inter is installed.
"""

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
from playwright.sync_api import Browser, Page, expect, sync_playwright

DOCS = Path(__file__).parent
SOURCES = ("src", "packages/fastapi-realtime/src")
ANSWERS = {"project_name": "Tea House", "description": "Rooms for people who talk over tea."}
SCREENS = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 360, "height": 740}}
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
    page = browser.new_page(viewport=SCREENS["desktop"], device_scale_factor=1)
    page.goto(f"{url}?room=tea&name={name}")
    expect(page.locator("#room .state")).to_have_text("Connected")
    return page


def say(page: Page, text: str, *hearers: Page) -> None:
    """Say something, and wait until the others have heard it."""
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    for hearer in hearers:
        expect(hearer.locator("#room .in").last).to_contain_text(text)


def talk(ann: Page, ben: Page, cleo: Page) -> None:
    """Talk, with somebody who is away for a while."""
    say(ben, "Morning! Is the Darjeeling in?", ann, cleo)
    say(cleo, "First flush, since yesterday. The kettle is on.", ann, ben)
    say(ann, "Two cups, please. I come by at four.", ben, cleo)
    ann.get_by_role("button", name="Cut my network").click()
    expect(ann.locator("#room .state")).to_have_text("Offline")
    say(cleo, "At four it is. Second table by the window.", ben)
    say(ben, "Bring the good cups.", cleo)
    say(ann, "And some shortbread?")
    ann.get_by_role("button", name="Restore my network").click()
    expect(ann.locator("#room .state")).to_have_text("Connected")
    say(cleo, "Shortbread, of course.", ann)
    expect(ann.locator("#rate")).not_to_have_text("0")
    expect(ann.locator("#rate")).to_have_text("0")


def take_pictures(page: Page) -> None:
    """Write a picture for each screen and colour scheme."""
    for screen, size in SCREENS.items():
        for scheme in SCHEMES:
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=scheme)
            page.locator("#room .transcript li").last.scroll_into_view_if_needed()
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=DOCS / f"page-{screen}-{scheme}.png")


def main() -> None:
    """Take all pictures."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit("There is no Chromium here. On Debian: apt-get install chromium")
    with running_project() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--disable-gpu"])
        ann, ben, cleo = (join(browser, url, name) for name in ("Ann", "Ben", "Cleo"))
        talk(ann, ben, cleo)
        take_pictures(ann)
        browser.close()


if __name__ == "__main__":
    main()
