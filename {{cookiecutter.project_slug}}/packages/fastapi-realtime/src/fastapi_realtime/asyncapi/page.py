"""The HTML page of the AsyncAPI document. It has no scripts and loads no other files."""

import json
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from .fields import described_fields, fields_table, key_of
from .html import Html, code_in, element, prose, table
from .messages import JSON

STYLE = Path(__file__).with_name("style.css").read_text("utf-8")

NO_STORE = {"Cache-Control": "no-store"}
"""The document and the page contain the requested host, so they must not be cached."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; "
    f"style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
} | NO_STORE

Document = dict[str, Any]
Section = dict[str, Document]
"""Channels that differ in their paths alone, by their keys."""

REFUSALS, CLOSE_CODES = "x-handshake-responses", "x-close-codes"


def make_page(info: Document, server: str, links: dict[str, str], main: Html) -> str:
    """Return the page; `links` are shown beside its title, and `main` is from `make_main`."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("title", f"{info['title']}: WebSocket API"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("style", Html(STYLE)),
    )
    title = element("h1", info["title"], " ", element("small", info["version"]))
    where = element("p", "WebSocket API at ", element("code", server))
    nav = element("nav", *(element("a", name, href=url) for name, url in links.items()))
    body = element("body", element("header", element("div", title, where), nav), main)
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def make_main(document: Document) -> Html:
    """Return the sections of the page, which are the same for every request."""
    sections = sections_of(document)
    messages = shared_messages(sections)
    refusals, codes = (shared_outcomes(document, key) for key in (REFUSALS, CLOSE_CODES))
    shared = [
        *(message(document, each, id=anchor) for anchor, each in messages.items()),
        outcomes("Refused handshakes", "Status", refusals, id="refused-handshakes"),
        outcomes("Close codes", "Code", codes, id="close-codes"),
    ]
    heading = element("h2", "Shared by endpoints", id="shared-by-endpoints")
    return element(
        "main",
        overview(document, has_shared=any(shared)),
        *(section(document, each, messages, refusals | codes) for each in sections),
        element("section", heading, *shared) if any(shared) else "",
    )


def overview(document: Document, *, has_shared: bool) -> Html:
    """Return the description, the ways to send a token, and links to all sections."""
    links = [
        element("a", element("code", each["address"]), href=f"#{key}")
        for key, each in document["channels"].items()
    ]
    if has_shared:
        links.append(element("a", "Shared by endpoints", href="#shared-by-endpoints"))
    schemes = document.get("components", {}).get("securitySchemes", {}).values()
    ways = [element("li", code_in(scheme["description"])) for scheme in schemes]
    tokens = [element("p", "Send a token, in one of these ways:"), element("ul", *ways)]
    return element(
        "section",
        prose(document["info"]["description"]),
        *(tokens if ways else ()),
        element("p", *links, class_="links") if links else prose("There are no WebSocket routes."),
    )


def sections_of(document: Document) -> list[Section]:
    """Return the channels by section."""
    sections: dict[str, Section] = {}
    for key, channel in document["channels"].items():
        same = channel | {"address": "", "title": "", "parameters": {}, REFUSALS: {}}
        same["description"] = channel.get("description", "").partition("\n\n")[0]
        operations = [(each["title"], keys_in(each)) for each in operations_of(document, key)]
        sections.setdefault(json.dumps([same, operations], sort_keys=True), {})[key] = channel
    return list(sections.values())


def operations_of(document: Document, key: str) -> list[Document]:
    """Return the operations of a channel."""
    channel = {"$ref": f"#/channels/{key}"}
    return [each for each in document["operations"].values() if each["channel"] == channel]


def keys_in(operation: Document) -> list[str]:
    """Return the keys of an operation's messages."""
    return [reference["$ref"].rpartition("/")[2] for reference in operation["messages"]]


def shared_messages(sections: list[Section]) -> Section:
    """Return the models that are messages of several sections, by anchor, with all examples."""
    found: dict[str, list[Document]] = {}
    for channels in sections:
        messages = next(iter(channels.values()))["messages"].values()
        for anchor, each in {anchor_of(each): each for each in messages}.items():
            found.setdefault(anchor, []).append(each)
    return {
        anchor: same[0] | {"examples": examples_of(same)}
        for anchor, same in found.items()
        if anchor and len(same) > 1
    }


def anchor_of(message: Document) -> str:
    """Return the anchor of a message that is a model, or an empty string."""
    key = key_of(message["payload"])
    return f"message-{key}" if key else ""


def examples_of(messages: list[Document]) -> list[Document]:
    """Return the examples of all these messages, each once."""
    found = [example for message in messages for example in message.get("examples", ())]
    return list({json.dumps(each): each for each in found}.values())


def shared_outcomes(document: Document, key: str) -> Document:
    """Return the refusals or close codes that all channels have which have any."""
    tables = [each[key] for each in document["channels"].values() if key in each]
    first = tables[0] if tables else {}
    is_shared = {code: all(table.get(code) == first[code] for table in tables) for code in first}
    return {code: each for code, each in first.items() if is_shared[code]}


def section(document: Document, channels: Section, messages: Section, shared: Document) -> Html:
    """Return a section; the shared messages and outcomes are not in it."""
    key, channel = next(iter(channels.items()))
    texts = "\n\n".join(each.get("description", "") for each in channels.values())
    names = channel.get("x-subprotocols", ())
    refusals, codes = (
        {
            code: outcome
            for each in channels.values()
            for code, outcome in each.get(name, {}).items()
            if shared.get(code) != outcome
        }
        for name in (REFUSALS, CLOSE_CODES)
    )
    operations = [
        operation(document, channel, each, messages) for each in operations_of(document, key)
    ]
    links = (
        element("a", "Refused handshakes", href="#refused-handshakes"),
        element("a", "Close codes", href="#close-codes"),
    )
    return element(
        "section",
        *(
            element("h2", element("code", each["address"]), id=key)
            for key, each in channels.items()
        ),
        prose("\n\n".join(dict.fromkeys(texts.split("\n\n")))),
        element("p", "Subprotocols: ", code_in(" ".join(f"`{name}`" for name in names)))
        if names
        else "",
        table(("Parameter", "In", "Type", "Meaning"), parameter_rows(document, channels)),
        element("div", *operations, class_="operations"),
        element("p", *links, class_="links") if CLOSE_CODES in channel else "",
        outcomes("More refused handshakes", "Status", refusals),
        outcomes("More close codes", "Code", codes),
    )


def parameter_rows(document: Document, channels: Section) -> list[tuple[str, ...]]:
    """Return the parameters of the handshake as rows."""
    paths = {
        name: each["x-schema"]
        for channel in channels.values()
        for name, each in channel.get("parameters", {}).items()
    }
    channel = next(iter(channels.values()))
    binding = channel["bindings"]["ws"]
    places = (
        ("path", {"properties": paths, "required": list(paths)}),
        ("query", binding.get("query", {})),
        ("header", binding.get("headers", {})),
        ("cookie", channel.get("x-cookies", {})),
    )
    return [
        (name, place, kind, meaning)
        for place, schema in places
        for name, kind, meaning in described_fields(schema, definitions_of(document))
    ]


def definitions_of(document: Document) -> Document:
    """Return the shared schemas of a document."""
    schemas: Document = document.get("components", {}).get("schemas", {})
    return schemas


def operation(document: Document, channel: Document, each: Document, shared: Section) -> Html:
    """Return an operation (send or receive): its messages, and links to the shared ones."""
    parts = [element("h3", code_in(each["title"]))]
    for key in keys_in(each):
        found = channel["messages"][key]
        anchor = anchor_of(found)
        if anchor in shared:
            link = element("a", found["title"], href=f"#{anchor}")
            parts.append(element("p", *line_of(found, link)))
        else:
            parts.append(message(document, found))
    return element("div", *parts)


def message(document: Document, found: Document, **attributes: str) -> Html:
    """Return a message: a line about it, and its fields and examples folded."""
    line = line_of(found, element("b", found["title"]))
    examples = [written(example["payload"], found) for example in found.get("examples", ())]
    body = [
        fields_table(found["payload"], definitions_of(document)),
        *(element("pre", element("code", text)) for text in examples),
    ]
    if not any(body):
        return element("p", *line, **attributes)
    # A link unfolds what it leads to if that is inside of `details`.
    return element("details", element("summary", *line), element("div", *body, **attributes))


def line_of(found: Document, name: Html) -> tuple[str, ...]:
    """Return name, content type (if it is not JSON) and summary of a message."""
    kind = "" if found["contentType"] == JSON else element("small", found["contentType"], " ")
    return name, " ", kind, code_in(found.get("summary", ""))


def written(example: Any, found: Document) -> str:
    """Return an example as sent on the wire."""
    if isinstance(example, str) and found["contentType"] != JSON:
        return example
    return json.dumps(example, ensure_ascii=False)


def outcomes(title: str, heading: str, found: Document, **attributes: str) -> Html:
    """Return a folded table, or nothing if it has no rows."""
    rows = [(code, code_in(each["description"])) for code, each in found.items()]
    if not rows:
        return Html("")
    body = element("div", table((heading, "Meaning"), rows), **attributes)
    return element("details", element("summary", title), body)
