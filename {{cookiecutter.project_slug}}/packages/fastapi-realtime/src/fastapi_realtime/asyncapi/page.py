"""The HTML page of the AsyncAPI document. It has no scripts and loads no other files."""

import json
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from .fields import described_fields, fields_table
from .html import Html, code_in, element, join, prose, table

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


def make_page(document: Document, links: dict[str, str]) -> str:
    """Return the page; `links` are shown below its title."""
    info = document["info"]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("title", f"{info['title']}: WebSocket API"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("style", Html(STYLE)),
    )
    channels = document["channels"].items()
    main = element("main", connect(document), *(channel(document, *each) for each in channels))
    body = element("body", header(document, links), main)
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def header(document: Document, links: dict[str, str]) -> Html:
    """Return title, version, links, description, and a list of all channels."""
    info = document["info"]
    addresses = [
        element("li", element("a", element("code", each["address"]), href=f"#{key}"))
        for key, each in document["channels"].items()
    ]
    return element(
        "header",
        element("h1", info["title"], " ", element("small", info["version"])),
        element("nav", *(element("a", name, href=url) for name, url in links.items())),
        prose(info["description"]),
        element("ul", *addresses) if addresses else prose("There are no WebSocket routes."),
    )


def connect(document: Document) -> Html:
    """Return the section with the server's URL and the ways to send a token."""
    server = document["servers"]["server"]
    url = f"{server['protocol']}://{server['host']}{server.get('pathname', '')}"
    schemes = document.get("components", {}).get("securitySchemes", {}).values()
    ways = [element("li", code_in(scheme["description"])) for scheme in schemes]
    tokens = [element("p", "Send a token, in one of these ways:"), element("ul", *ways)]
    return element(
        "section",
        element("h2", "Connect"),
        element("p", "Server: ", element("code", url)),
        *(tokens if ways else ()),
    )


def channel(document: Document, key: str, found: Document) -> Html:
    """Return the section of a channel."""
    operations = [
        operation(document, found, each)
        for each in document["operations"].values()
        if each["channel"]["$ref"] == f"#/channels/{key}"
    ]
    subprotocols = [element("code", name) for name in found.get("x-subprotocols", ())]
    offered = join([" Subprotocols: ", *spaced(subprotocols)]) if subprotocols else ""
    return element(
        "section",
        element("h2", element("code", found["address"])),
        prose(found.get("description", "")),
        element("p", offered) if offered else "",
        table(("Parameter", "In", "Type", "Meaning"), parameter_rows(document, found)),
        element("div", *operations, class_="operations"),
        outcomes("Refused handshakes", "Status", found.get("x-handshake-responses", {})),
        outcomes("Close codes", "Code", found.get("x-close-codes", {})),
        id=key,
    )


def spaced(parts: list[Html]) -> list[str]:
    """Return parts with spaces between them."""
    return [each for part in parts for each in (" ", part)][1:]


def parameter_rows(document: Document, found: Document) -> list[tuple[str, ...]]:
    """Return the parameters of the handshake as rows."""
    binding = found["bindings"]["ws"]
    paths = {name: each["x-schema"] for name, each in found.get("parameters", {}).items()}
    in_path = {"properties": paths, "required": list(paths)}
    places = (
        ("path", in_path),
        ("query", binding.get("query", {})),
        ("header", binding.get("headers", {})),
        ("cookie", found.get("x-cookies", {})),
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


def operation(document: Document, found: Document, each: Document) -> Html:
    """Return an operation (send or receive) with all its messages."""
    names = [reference["$ref"].rpartition("/")[2] for reference in each["messages"]]
    messages = [message(document, found["messages"][name]) for name in names]
    return element("div", element("h3", code_in(each["title"])), *messages)


def message(document: Document, found: Document) -> Html:
    """Return a message: summary, fields and examples."""
    examples = [written(example["payload"], found) for example in found.get("examples", ())]
    return element(
        "article",
        element("h4", found["title"], " ", element("small", found["contentType"])),
        prose(found.get("summary", "")),
        fields_table(found["payload"], definitions_of(document)),
        *(element("pre", element("code", text), tabindex="0") for text in examples),
    )


def written(example: Any, found: Document) -> str:
    """Return an example as sent on the wire."""
    if isinstance(example, str) and found["contentType"] != "application/json":
        return example
    return json.dumps(example, ensure_ascii=False)


def outcomes(title: str, heading: str, found: Document) -> Html:
    """Return a collapsed table, or nothing if it has no rows."""
    rows = [(code, code_in(each["description"])) for code, each in found.items()]
    if not rows:
        return Html("")
    return element("details", element("summary", title), table((heading, "Meaning"), rows))
