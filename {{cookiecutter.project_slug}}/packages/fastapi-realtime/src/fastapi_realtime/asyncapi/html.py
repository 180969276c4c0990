"""Builds HTML; every text is escaped."""

import re
from collections.abc import Iterable
from html import escape

VOID = ("meta",)


class Html(str):
    """Text that is already HTML, so it is not escaped."""


def element(tag: str, /, *children: str, **attributes: str) -> Html:
    """Return an element; write `class_` for `class`, `aria_label` for `aria-label`."""
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    pairs = (f' {names[name]}="{escape(value)}"' for name, value in attributes.items())
    start = f"<{tag}{''.join(pairs)}>"
    return Html(start if tag in VOID else f"{start}{join(children)}</{tag}>")


def join(children: Iterable[str]) -> Html:
    """Return all parts as one; those that are not HTML are escaped."""
    return Html("".join(each if isinstance(each, Html) else escape(each) for each in children))


def prose(text: str) -> Html:
    """Return paragraphs, with words in backticks as `code` elements."""
    paragraphs = filter(None, re.split(r"\n\s*\n", text.strip()))
    return join(element("p", code_in(paragraph)) for paragraph in paragraphs)


def code_in(text: str) -> Html:
    """Return a text, with words in backticks as `code` elements."""
    return Html(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))


def table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Html:
    """Return a table, or nothing if it has no rows."""
    body = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    if not body:
        return Html("")
    head = element("tr", *(element("th", heading, scope="col") for heading in headings))
    inner = element("table", element("thead", head), element("tbody", *body))
    label = f"Table: {', '.join(headings)}"
    return element("div", inner, class_="table", role="group", aria_label=label, tabindex="0")
