"""The page that shows the AsyncAPI document."""

import re
from base64 import b64encode
from collections.abc import Callable
from enum import Enum
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from typing import Annotated, Any, Literal

import fastapi_realtime.asyncapi as asyncapi_page
import pytest
from fastapi import Cookie, Depends, FastAPI, Query, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.testclient import TestClient
from fastapi_realtime import (
    Admission,
    Admitted,
    Connection,
    add_asyncapi,
)
from pydantic import BaseModel, Field, create_model

from .serving import realtime_app
from .test_asyncapi import Keys, Order, Page

HOSTILE = "\"'&></title><script>alert('1')</script><img src=x onerror=alert(2)>"


class Tags(HTMLParser):
    """Collects the tags of a page, and checks that each is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(app: FastAPI, **options: Any) -> str:
    """The page, which is well-formed."""
    page = TestClient(app, **options).get("/asyncapi").text
    Tags(page)
    return page


def text_of(page: str) -> str:
    """What a reader sees, with single blanks."""
    without_style = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", without_style)))


@pytest.fixture
def app() -> FastAPI:
    """An application that serves its page."""
    app = realtime_app()
    add_asyncapi(app)
    return app


def test_the_page_has_all_that_a_client_must_know(app: FastAPI) -> None:
    @app.websocket("/shop/{shop}")
    async def shop(
        connection: Admitted[Order, Page[Order]],
        shop: int,
        since: Annotated[str, Query(description="Begin after `since`.")] = "now",
        session: Annotated[Literal["a", "b"] | None, Cookie()] = None,
    ) -> None:
        """Sell tea.

        All day.
        """

    app.state.realtime.subprotocols = ("v1", "v2")
    text = text_of(page_of(app))
    for part in (
        "ws://testserver",
        "Subprotocols: v1 v2",
        "/shop/{shop}",
        "All day.",
        "path { shop: integer }",
        'query { since?: string // Begin after `since`. Default: "now". }',
        'cookies { session?: "a" | "b" | null }',
        "Clients send",
        "Something to buy.",
        'name: string (minLength 8) // Example: "green tea".',
        "parts?: (Item)[] // Default: [].",
        "second: integer (minimum 0, maximum 59)",
        "Clients receive",
        "error: ErrorDetail { code: string",
        "1008",
        "Too many connections",
    ):
        assert part in text, part


def test_text_is_never_markup(app: FastAPI) -> None:
    app.title = app.version = app.description = HOSTILE
    scheme = {"type": "http", "scheme": "basic", "description": HOSTILE}
    app.state.realtime.authenticator = Keys(basic=scheme)
    described = Field(HOSTILE, description=HOSTILE, alias=HOSTILE, examples=[HOSTILE])
    kind = create_model("Hostile", __doc__=HOSTILE, x=(str, described))

    async def talk(
        connection: Admitted[kind, kind],  # ty: ignore[invalid-type-form]
        q: Annotated[str, Query(description=HOSTILE, alias=HOSTILE)] = HOSTILE,
    ) -> None: ...

    talk.__doc__ = f"`{HOSTILE}`"
    app.websocket(f"/{HOSTILE}", name=HOSTILE)(talk)
    page = page_of(app, root_path=f"/{HOSTILE}")
    tags = Tags(page)
    assert not {"script", "img", "link", "iframe"} & set(tags.tags)
    assert not any(name.startswith("on") or name in ("src", "style") for name, _ in tags.attributes)
    assert "&lt;script&gt;" in page


def test_nothing_but_its_own_style_may_be_loaded(app: FastAPI) -> None:
    answer = TestClient(app).get("/asyncapi")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = b64encode(sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "http" not in style


@pytest.mark.parametrize("path", ["/asyncapi", "/asyncapi.json"])
def test_no_cache_keeps_an_answer_that_depends_on_the_host(app: FastAPI, path: str) -> None:
    assert TestClient(app).get(path).headers["cache-control"] == "no-store"


class Size(Enum):
    """What is made."""

    SMALL = "s"
    LARGE = "l"


class Tag(BaseModel):
    """Differs both ways."""

    name: str = "tea"


class Limited(BaseModel):
    """One field of each kind."""

    size: Size
    sizes: Annotated[list[Size], Field(min_length=1, max_length=3)]
    names: set[str]
    pair: tuple[int, str]
    row: tuple[Tag, ...]
    prices: dict[str, Annotated[int, Field(ge=0)]]
    by_code: dict[Annotated[str, Field(pattern="^[a-z]$")], Tag]
    even: Annotated[int, Field(multiple_of=2)]


def test_types_and_limits_of_fields_are_shown(app: FastAPI) -> None:
    @app.websocket("/limited")
    async def limited(
        connection: Admitted[Limited, Limited], size: Size, sizes: Annotated[list[Size], Query()]
    ) -> None: ...

    @app.websocket("/lists")
    async def lists(connection: Admitted[list[Size], dict[str, Tag]]) -> None: ...

    text = text_of(page_of(app))
    for part in (
        'query { size: "s" | "l" // What is made. sizes: ("s" | "l")[] }',
        'size: "s" | "l"',
        'sizes: ("s" | "l")[] (minItems 1, maxItems 3)',
        "names: (string)[] (uniqueItems True)",
        "pair: [integer, string]",
        'row: (Tag { name?: string // Default: "tea". })[]',
        "prices: {[key]: integer (minimum 0)}",
        "by_code: {[key]: Tag}",
        "even: integer (multipleOf 2)",
        'json JSON. ("s" | "l")[]',
        "json JSON. {[key]: Tag { name: string",
    ):
        assert part in text, part


def links(app: FastAPI, **options: Any) -> list[str | None]:
    """Where the links beside the title lead."""
    attributes = Tags(page_of(app, **options)).attributes
    return [value for name, value in attributes if name == "href"]


def test_it_links_what_there_is(app: FastAPI) -> None:
    assert links(app) == ["/asyncapi.json", "/docs"]
    assert links(app, root_path="/api") == ["/api/asyncapi.json", "/api/docs"]
    app.state.has_page = True  # by `add_page`
    assert links(app) == ["/asyncapi.json", "/docs", "/"]


def test_another_url_and_no_openapi(app: FastAPI) -> None:
    plain = FastAPI(openapi_url=None)
    plain.state.realtime = app.state.realtime
    add_asyncapi(plain, "/ws-docs")
    client = TestClient(plain)
    assert client.get("/ws-docs.json").json()["channels"] == {}
    page = client.get("/ws-docs").text
    assert 'href="/ws-docs.json"' in page
    assert "/docs" not in page.replace("/ws-docs", "")
    assert "There are no WebSocket routes." in page


def test_a_route_without_admission_has_no_tables_of_refusals(app: FastAPI) -> None:
    @app.websocket("/bare")
    async def bare(websocket: WebSocket) -> None: ...

    page = page_of(app)
    assert "/bare" in page
    assert "Close codes" not in page


def test_a_model_is_its_name_where_it_was_shown_already(app: FastAPI) -> None:
    class Leaf(BaseModel):
        leaves: dict[str, "Leaf"] = {}

    class Tree(BaseModel):
        first: Leaf
        pair: tuple[Leaf, int]

    @app.websocket("/trees")
    async def trees(connection: Admitted[Tree, str]) -> None: ...

    leaf = "Leaf { leaves?: {[key]: Leaf} // Default: {}. }"
    assert f"Tree {{ first: {leaf} pair: [Leaf, integer] }}" in text_of(page_of(app))


def shop_of(connection: HTTPConnection) -> str:
    """The name in the path, or a default."""
    return connection.path_params.get("shop", "tea")


def test_routes_that_differ_in_their_paths_alone_are_one_section(app: FastAPI) -> None:
    @app.websocket("/shops/{shop}")
    @app.websocket("/shop")
    async def shops(
        connection: Admitted[Limited, Limited], shop: Annotated[str, Depends(shop_of)]
    ) -> None:
        """Sell tea."""

    @app.get("/shop")
    async def shown() -> None: ...

    @app.websocket("/other")
    async def other(connection: Admitted[Limited, Limited]) -> None:
        """Sell coffee."""

    page = page_of(app)
    text = text_of(page)
    assert text.count("Sell tea.") == text.count("Sell coffee.") == 1
    assert "/shop /shops/{shop} Sell tea. /shop also takes GET requests:" in text
    assert page.count("<section>") == len(("overview", "/shop", "/other", "codes"))
    assert "path { shop: string }" in text


def test_what_the_engine_answers_is_there_once(app: FastAPI) -> None:
    @app.websocket("/text")
    async def first(connection: Admitted[str, str]) -> None: ...

    @app.websocket("/tags")
    async def second(connection: Admitted[Tag, Tag], size: Size) -> None: ...

    page = page_of(app)
    text = text_of(page)
    assert text.count("1008") == text.count("429") == text.count("422") == 1
    (anchor,) = re.findall(r'<a href="#([^"]+)">Refusals and close codes</a>', page)
    assert page.count(f'id="{anchor}"') == 1


def test_close_codes_of_an_endpoint_are_in_its_own_section(app: FastAPI) -> None:
    connections = Annotated[Connection, Depends(Admission(close_codes={4010: "Full."}))]

    @app.websocket("/table")
    async def table(connection: connections) -> None: ...

    @app.websocket("/other")
    async def other(connection: Admitted) -> None: ...

    text = text_of(page_of(app))
    assert text.index("/table") < text.index("4010 Full.") < text.rindex("/other")
    assert text.index("1008") > text.rindex("/other")


def test_what_is_long_is_folded(app: FastAPI) -> None:
    @app.websocket("/limited")
    async def limited(connection: Admitted[Limited, str]) -> None: ...

    page = page_of(app)
    assert "<details open" not in page
    unfolded = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    for part in ("by_code", "invalid_json", "1008", "429"):
        assert part in page
        assert part not in unfolded
    assert "Limited" in text_of(re.sub(r"</summary>.*?</details>", "", page, flags=re.DOTALL))


def test_documents_are_made_once_for_each_set_of_routes(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def spy(module: Any, name: str, what: str, is_counted: Callable[..., bool]) -> None:
        function = getattr(module, name)

        def counting(*args: Any, **options: Any) -> Any:
            made.extend([what] if is_counted(*args) else [])
            return function(*args, **options)

        monkeypatch.setattr(module, name, counting)

    spy(asyncapi_page, "asyncapi_document", "document", lambda *_: True)
    spy(asyncapi_page, "make_main", "page", lambda *_: True)
    spy(asyncapi_page, "to_json", "JSON", lambda document: "channels" in document)
    client = TestClient(app)
    for added in ("/one", "/two"):

        @app.websocket(added)
        async def talk(connection: Admitted[Tag, Tag]) -> None: ...

        made.clear()
        for host in ("a.example", "b.example:81"):
            for path in ("/asyncapi", "/asyncapi.json"):
                text = client.get(path, headers={"host": host}).text
                assert added in text
                assert host in text
        assert sorted(made) == ["JSON", "document", "page"]


@pytest.mark.parametrize("path", ["/asyncapi", "/asyncapi.json"])
def test_no_client_gets_the_host_of_another(app: FastAPI, path: str) -> None:
    client = TestClient(app)
    hosts = ("localhost:8000", '"><script>', "tea.example", "localhost:8000")
    answers = [client.get(path, headers={"host": host}).text for host in hosts]
    assert answers[0] == answers[1] == answers[3] == answers[2].replace(hosts[2], hosts[0])
    assert hosts[2] in answers[2]
