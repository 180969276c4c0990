"""Documents an application's WebSocket routes: as AsyncAPI, and as an HTML page without scripts."""

import json
import re
from base64 import b64encode
from functools import partial
from hashlib import sha256
from html import escape
from pathlib import Path
from textwrap import indent
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from pydantic_core import to_json

from ..errors import MEANINGS
from ..messages import find_routes
from ..page import HEADERS
from .document import DEFAULT_SERVER, JSON, REFUSALS, Schema, asyncapi_document, key_of, start_of

HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
STYLE = Path(__file__).with_name("style.css").read_text("utf-8")
DIGEST = b64encode(sha256(STYLE.encode()).digest()).decode()
NO_STORE = {"Cache-Control": "no-store"}  # both answers contain the requested host
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_HEADERS = HEADERS | NO_STORE
PAGE_HEADERS["Content-Security-Policy"] = f"{POLICY}; style-src 'sha256-{DIGEST}'"

META = """<meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1">"""
OUTCOMES = {"x-handshake-responses": "Refused handshakes", "x-close-codes": "Close codes"}
LIMITS = """minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength
minItems maxItems uniqueItems minProperties maxProperties pattern format""".split()
dumped = partial(json.dumps, ensure_ascii=False)


class Html(str):
    """Text that is already HTML, so it is not escaped."""


def add_asyncapi(app: FastAPI, url: str = "/asyncapi") -> None:
    """Serve the AsyncAPI document as JSON at `<url>.json`, and as an HTML page at `url`.

    Both include routes that are added later. Like FastAPI's `/docs`, they are public.
    """
    made: dict[str, Any] = {}

    def update() -> None:
        """Make what is the same for every host, if the routes are not those of the last time."""
        routes = [(start, each.path, each.endpoint) for start, each in find_routes(app.routes)]
        if made.get("routes") != routes:
            whole = asyncapi_document(app)
            rest = {key: each for key, each in whole.items() if key not in start_of(app, "")}
            content = to_json(rest, inf_nan_mode="null")
            made.update(routes=routes, json=content, main=make_main(whole))

    async def document(request: Request) -> Response:
        update()
        start = to_json(start_of(app, server_of(request)))
        return Response(start[:-1] + b"," + made["json"][1:], headers=NO_STORE, media_type=JSON)

    async def page(request: Request) -> HTMLResponse:
        update()
        links = {"asyncapi.json": f"{url}.json"}
        if app.openapi_url and app.docs_url:
            links["HTTP routes"] = app.docs_url
        if getattr(app.state, "has_page", False):
            links["Console"] = "/"
        root = request.scope.get("root_path", "").rstrip("/")
        nav = [element("a", name, href=f"{root}{path}") for name, path in links.items()]
        title = element("h1", app.title, " ", element("small", app.version))
        where = element("p", "WebSocket API at ", element("code", server_of(request)))
        header = element("header", element("div", title, where), element("nav", *nav))
        head = f"{META}<title>{escape(app.title)}: WebSocket API</title><style>{STYLE}</style>"
        body = element("body", header, made["main"])
        html = f'<!doctype html>\n<html lang="en"><head>{head}</head>{body}</html>\n'
        return HTMLResponse(html, headers=PAGE_HEADERS)

    app.add_route(f"{url}.json", document, include_in_schema=False)
    app.add_route(url, page, include_in_schema=False)


def server_of(request: Request) -> str:
    """Return the URL that the client used, also behind a proxy that sets `root_path`."""
    host, root = request.headers.get("host", ""), request.scope.get("root_path", "")
    host = host if HOST.fullmatch(host) else DEFAULT_SERVER.partition("://")[2]
    return f"{'wss' if request.url.scheme == 'https' else 'ws'}://{host}{root.rstrip('/')}"


def element(tag: str, /, *children: str, **attributes: str) -> Html:
    """Return an element; all that is not `Html` is escaped. Write `class_` for `class`."""
    pairs = (f' {name.rstrip("_")}="{escape(value)}"' for name, value in attributes.items())
    inner = (each if isinstance(each, Html) else escape(each) for each in children)
    return Html(f"<{tag}{''.join(pairs)}>{''.join(inner)}</{tag}>")


def code_in(text: str) -> Html:
    """Return a text, with words in backticks as `code` elements."""
    return Html(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))


def prose(text: str) -> list[Html]:
    """Return the paragraphs of a text, each once."""
    paragraphs = dict.fromkeys(filter(None, re.split(r"\n\s*\n", text.strip())))
    return [element("p", code_in(paragraph)) for paragraph in paragraphs]


def folded(line: list[str], *content: Html) -> Html:
    """Return a line that unfolds its content, if there is any."""
    if not content:
        return element("p", *line)
    return element("details", element("summary", *line), element("div", *content))


def make_main(document: Schema) -> Html:
    """Return the sections of the page; channels that differ in their paths alone share one."""
    channels = document["channels"]
    sections: dict[str, Schema] = {}
    for key, channel in channels.items():
        differing = ("address", "title", "description", "parameters", "x-handshake-responses")
        same = {name: each for name, each in channel.items() if name not in differing}
        about = channel.get("description", "").partition("\n\n")[0]
        parts = [same, about, operations_of(document, key)]
        sections.setdefault(json.dumps(parts, default=str), {})[key] = channel
    codes = outcomes(channels, is_own=False)
    names = {key: element("code", each["address"]) for key, each in channels.items()}
    links = [element("a", name, href=f"#{key}") for key, name in names.items()]
    links += [element("a", "Refusals and close codes", href="#-codes")] if codes else []
    overview = prose(document["info"]["description"])
    if schemes := document["components"].get("securitySchemes", {}).values():
        ways = [element("li", code_in(scheme["description"])) for scheme in schemes]
        overview += [*prose("Send a token, in one of these ways:"), element("ul", *ways)]
    overview.append(element("p", *links or ["There are no WebSocket routes."], class_="links"))
    parts = [overview, *(section(document, each) for each in sections.values())]
    codes[:0] = [element("h2", "Refusals and close codes", id="-codes")] if codes else []
    return element("main", *(element("section", *part) for part in (*parts, codes) if part))


def section(document: Schema, channels: Schema) -> list[Html]:
    """Return the section of channels that differ in their paths alone."""
    schemas, items = document["components"].get("schemas", {}), channels.items()
    parts = [element("h2", element("code", each["address"]), id=key) for key, each in items]
    parts += prose("\n\n".join(each.get("description", "") for _, each in items))
    (key, channel), *_ = items
    if names := channel.get("x-subprotocols"):
        parts += prose(f"Subprotocols: {' '.join(f'`{name}`' for name in names)}")
    in_path = [each for _, channel in items for each in channel.get("parameters", {}).items()]
    path = {name: each.get("x-schema", {}) for name, each in in_path}
    ws = channel["bindings"]["ws"]
    places = {
        "path": {"properties": path, "required": [*path]} if path else None,
        "query": ws.get("query"),
        "headers": ws.get("headers"),
        "cookies": channel.get("x-cookies"),
    }
    lines = [f"{place} {type_of(each, schemas, set())}" for place, each in places.items() if each]
    parts += [element("pre", element("code", "\n".join(lines)))] if lines else []
    operations = []
    for title, keys in operations_of(document, key):
        messages = [message(channel["messages"][each], schemas) for each in keys]
        operations.append(element("div", element("h3", code_in(title)), *messages))
    return [*parts, element("div", *operations, class_="operations"), *outcomes(channels)]


def operations_of(document: Schema, key: str) -> list[tuple[str, list[str]]]:
    """Return the titles of a channel's operations, and the keys of their messages."""
    operations = document["operations"].values()
    found = [each for each in operations if key_of(each["channel"]) == key]
    return [(each["title"], list(map(key_of, each["messages"]))) for each in found]


def outcomes(channels: Schema, *, is_own: bool = True) -> list[Html]:
    """Return folded lists of refusals and close codes: an endpoint's own, or the engine's."""
    lists = []
    for name, title in OUTCOMES.items():
        items = [item for channel in channels.values() for item in channel.get(name, {}).items()]
        texts = {code: each["description"] for code, each in items}
        rows = [
            element("li", element("code", code), " ", code_in(text))
            for code, text in texts.items()
            if (text not in {*MEANINGS.values(), *REFUSALS.values()}) == is_own
        ]
        lists += [folded([title], element("ul", *rows))] if rows else []
    return lists


def message(found: Schema, schemas: Schema) -> Html:
    """Return a message: a line about it, and its type and examples folded."""
    is_json = found["contentType"] == JSON
    kind = "" if is_json else element("small", found["contentType"], " ")
    line = [element("b", found["title"]), " ", kind, code_in(found.get("summary", ""))]
    examples = [each["payload"] for each in found.get("examples", ())]
    texts = [type_of(found["payload"], schemas, set())] if is_json else []
    texts += [dumped(each) if is_json else str(each) for each in examples]
    return folded(line, *(element("pre", element("code", text)) for text in texts))


def type_of(schema: Schema, schemas: Schema, seen: set[str]) -> str:
    """Return a type in a notation like TypeScript's; a model that was `seen` is only its name."""
    if key := key_of(schema):
        name = re.sub("-(Input|Output)$", "", key)  # the mode that pydantic may append
        if key in seen and "enum" not in schemas[key]:
            return name
        seen.add(key)
        kind = type_of(schemas[key], schemas, seen)
        return f"{name} {kind}" if kind.startswith("{") else kind
    if parts := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " | ".join(dict.fromkeys(type_of(each, schemas, seen) for each in parts))
    if values := [schema["const"]] if "const" in schema else schema.get("enum"):
        return " | ".join(map(dumped, values))
    if fields := schema.get("properties"):
        lines = ["{"]
        for name, each in fields.items():
            mark = "" if name in schema.get("required", ()) else "?"
            field = f"{name}{mark}: {type_of(each, schemas, seen)}{notes_of(each)}"
            lines.append(indent(field, "  "))
        return "\n".join([*lines, "}"])
    kind, items = schema.get("type", "any"), schema.get("items")
    values = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
    if isinstance(values[0], dict):
        kind = "{[key]: " + type_of(values[0], schemas, seen) + "}"
    elif isinstance(items, list):
        return f"[{', '.join(type_of(each, schemas, seen) for each in items)}]"
    elif items:
        kind = f"({type_of(items, schemas, seen)})[]"
    limits = [f"{word} {schema[word]}" for word in LIMITS if word in schema]
    return f"{kind} ({', '.join(limits)})" if limits else kind


def notes_of(field: Schema) -> str:
    """Return the meaning, the default and an example of a field as a comment."""
    notes = field.get("description", "").split()
    if "const" not in field and field.get("default") not in (None, ""):
        notes.append(f"Default: {dumped(field['default'])}.")
    notes += [f"Example: {dumped(each)}." for each in field.get("examples", ())[:1]]
    return f"  // {' '.join(notes)}" if notes else ""
