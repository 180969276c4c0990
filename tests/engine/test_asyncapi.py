"""The AsyncAPI document says what the routes and their signatures say."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from math import inf
from typing import Annotated, Any, Generic, Literal, Never, TypeVar
from uuid import UUID

import pytest
from fastapi import (
    APIRouter,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Path,
    Query,
    WebSocket,
)
from fastapi.requests import HTTPConnection
from fastapi.testclient import TestClient
from fastapi_realtime import (
    Admission,
    Admitted,
    Connection,
    Identity,
    Subprotocol,
    add_asyncapi,
    asyncapi_document,
)
from fastapi_realtime.messages import ErrorFrame
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    WithJsonSchema,
    create_model,
)
from starlette.routing import WebSocketRoute
from typing_extensions import TypedDict

from .serving import realtime_app

T = TypeVar("T")


class Color(StrEnum):
    """What there is."""

    RED = "red"
    GREEN = "green"


class Item(BaseModel):
    """Something to buy."""

    type: Literal["item"] = "item"
    name: str = Field(min_length=8, examples=["green tea"])
    color: Color
    id: UUID
    pair: tuple[int, str] = (1, "a")
    price: Decimal | None = None
    parts: list["Item"] = []


class Tick(BaseModel):
    """The time."""

    type: Literal["tick"] = "tick"
    second: int = Field(ge=0, le=59)


@dataclass
class Page(Generic[T]):
    """A page."""

    items: list[T]


class Endless(BaseModel):
    """Contains itself, always."""

    inner: "Endless"


class Nested(BaseModel):
    """May contain itself."""

    inner: "Nested | None" = None


class Filters(BaseModel):
    """Parameters in the query."""

    nested: Nested | None = None


Other = create_model("Color", other=(int, ...), __module__="elsewhere")


class Row(TypedDict):
    """A dictionary."""

    size: int


class Handle:
    """Nothing that could be sent."""


Order = Annotated[Item | Tick, Field(discriminator="type")]


@pytest.fixture
def app() -> FastAPI:
    """An application that serves its document."""
    app = realtime_app()
    app.title, app.version = "Tea", "7.1"
    add_asyncapi(app)
    return app


def document(app: FastAPI) -> dict[str, Any]:
    """The document as clients get it, whose references all lead somewhere."""
    found = TestClient(app).get("/asyncapi.json").json()
    for reference in references(found):
        target = found
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
    return found


def references(value: Any) -> Iterator[str]:
    """Yield every `$ref`."""
    if isinstance(value, dict):
        yield from [value["$ref"]] if "$ref" in value else []
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from references(each)


def endpoint(app: FastAPI, incoming: Any, outgoing: Any = str, path: str = "/shop") -> None:
    """Add an endpoint with these types."""

    @app.websocket(path)
    async def shop(connection: Admitted[incoming, outgoing]) -> None:
        """Sell tea."""


def payload(found: dict[str, Any], message: str, channel: str = "shop") -> dict[str, Any]:
    """The schema of a message."""
    schema = found["channels"][channel]["messages"][message]["payload"]
    return found["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)


def examples(found: dict[str, Any], message: str, channel: str = "shop") -> list[Any]:
    """The examples of a message."""
    each = found["channels"][channel]["messages"][message].get("examples", [])
    return [example["payload"] for example in each]


def messages(found: dict[str, Any], operation: str) -> list[str]:
    """The names of the messages of an operation."""
    references = found["operations"][operation]["messages"]
    return [reference["$ref"].rpartition("/")[2] for reference in references]


def test_a_new_endpoint_is_in_the_document_without_further_work(app: FastAPI) -> None:
    assert document(app)["channels"] == {}
    endpoint(app, str, bytes)
    found = document(app)
    assert found["asyncapi"] == "3.0.0"
    assert (found["info"]["title"], found["info"]["version"]) == ("Tea", "7.1")
    channel = found["channels"]["shop"]
    assert (channel["address"], channel["description"]) == ("/shop", "Sell tea.")
    assert found["operations"]["receive_shop"]["action"] == "receive"
    assert messages(found, "receive_shop") == ["text"]
    assert messages(found, "send_shop") == ["binary", "error"]
    assert channel["messages"]["text"]["contentType"] == "text/plain"
    assert channel["messages"]["binary"]["contentType"] == "application/octet-stream"


def test_the_document_is_made_once(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint(app, Item)
    first = document(app)
    monkeypatch.setattr(TypeAdapter, "json_schemas", lambda *_: pytest.fail("made again"))
    assert document(app) == first


def test_a_model_in_the_signature_is_in_the_document(app: FastAPI) -> None:
    endpoint(app, JsonValue, str)
    assert payload(document(app), "json") == {}
    app.router.routes.pop()
    endpoint(app, Item, Tick)
    found = document(app)
    assert payload(found, "Item")["properties"]["name"]["minLength"] == 8
    assert payload(found, "Item")["required"] == ["type", "name", "color", "id"]
    assert found["channels"]["shop"]["messages"]["Item"]["summary"] == "Something to buy."
    assert payload(found, "Tick")["required"] == ["type", "second"]


def test_a_union_is_a_message_for_each_model(app: FastAPI) -> None:
    endpoint(app, Order, Item | Tick)
    found = document(app)
    assert messages(found, "receive_shop") == ["Item", "Tick"]
    assert messages(found, "send_shop") == ["Item_sent", "Tick_sent", "error"]


def test_other_unions_are_one_message(app: FastAPI) -> None:
    endpoint(app, int | list[Order], Never)
    found = document(app)
    assert "discriminator" not in json.dumps(payload(found, "json"))
    assert messages(found, "send_shop") == ["error"]
    app.router.routes.pop()
    endpoint(app, Never)
    assert list(document(app)["operations"]) == ["send_shop"]


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        (Page[Item], "Page"),
        (Row, "Row"),
        (Literal["a", "b"], "json"),
        (list[Tick], "json"),
        (None, "json"),
        (Annotated[str, Field(max_length=3)] | int, "json"),
        (create_model("Größe", value=(int, ...)), "Gr_e"),
        (Endless, "Endless"),
    ],
)
def test_every_type_is_a_message_without_an_example(app: FastAPI, declared: Any, name: str) -> None:
    endpoint(app, declared)
    found = document(app)
    assert messages(found, "receive_shop") == [name]
    assert examples(found, name) == []


def test_the_owners_examples_are_shown_if_they_are_valid(app: FastAPI) -> None:
    class Shown(BaseModel):
        model_config = {"json_schema_extra": {"examples": [{"x": 1}, {"x": "no number"}]}}
        x: int

    text = Annotated[str, Field(description="A name.", examples=["zoe"]), "a note"]
    endpoint(app, Shown, text)
    found = document(app)
    assert examples(found, "Shown") == [{"x": 1}]
    assert examples(found, "text") == ["zoe"]
    assert found["channels"]["shop"]["messages"]["text"]["summary"] == "A name."


def test_errors_of_the_engine_are_examples(app: FastAPI) -> None:
    endpoint(app, Item)
    endpoint(app, str, path="/plain")
    found = document(app)
    errors = examples(found, "error")
    assert all(ErrorFrame.model_validate(error) for error in errors)
    codes = [error["error"]["code"] for error in errors]
    assert codes == ["invalid_json", "invalid_shape", "text_expected", "rate_limited"]
    plain = examples(found, "error", "shop_2")
    assert [error["error"]["code"] for error in plain] == ["rate_limited"]


def test_two_models_of_one_name_stay_apart(app: FastAPI) -> None:
    other = create_model("Item", other=(int, ...), __module__="elsewhere")
    endpoint(app, Item | other, other)
    found = document(app)
    assert messages(found, "receive_shop") == ["Item", "Item_2"]
    assert "name" in payload(found, "Item")["properties"]
    assert "other" in payload(found, "Item_2")["properties"]


@pytest.mark.parametrize("has_tokens", [False, True])
def test_messages_with_tokens_are_left_out_where_there_are_none(
    app: FastAPI, has_tokens: bool
) -> None:
    app.state.realtime.authenticator = Keys() if has_tokens else None
    first, second = create_model("First"), create_model("Second")
    shop = Subprotocol("shop.v1", first | second, first, with_tokens=(second,))

    @app.websocket("/shop")
    async def sell(connection: Annotated[Connection, Depends(Admission("old", shop))]) -> None: ...

    (received,) = [
        operation["messages"]
        for key, operation in document(app)["operations"].items()
        if key == "receive_sell_shop_v1"
    ]
    names = [each["$ref"].rpartition("/")[2] for each in received]
    assert names == ["First_shop_v1", "Second_shop_v1"][: 1 + has_tokens]


def test_close_codes_of_an_endpoint_stand_beside_those_of_the_engine(app: FastAPI) -> None:
    admission = Admission(close_codes={4010: "The table is full."})

    @app.websocket("/table")
    async def table(connection: Annotated[Connection[str, str], Depends(admission)]) -> None: ...

    codes = document(app)["channels"]["table"]["x-close-codes"]
    assert codes["4010"] == {"description": "The table is full."}
    assert "1000" in codes


def test_a_model_both_ways_has_a_schema_for_each(app: FastAPI) -> None:
    model = create_model("Both", size=(int, 1))
    endpoint(app, model, model)
    found = document(app)
    assert "required" not in payload(found, "Both")
    assert payload(found, "Both_sent")["required"] == ["size"]


def test_types_that_json_schema_cannot_describe_may_be_anything(app: FastAPI) -> None:
    config = ConfigDict(arbitrary_types_allowed=True)
    endpoint(app, create_model("Own", __config__=config, own=(Handle, Handle())))
    assert payload(document(app), "Own")["properties"]["own"] == {"title": "Own"}


def test_tuples_are_written_as_draft_7_has_them(app: FastAPI) -> None:
    endpoint(app, tuple[int, str])
    found = document(app)
    assert payload(found, "json")["items"] == [{"type": "integer"}, {"type": "string"}]
    assert payload(found, "json")["additionalItems"] is False


def test_prefixes_mounts_and_several_paths_have_channels(app: FastAPI) -> None:
    outer, inner, mounted = APIRouter(), APIRouter(), FastAPI()

    async def talk(connection: Admitted[str, str]) -> None: ...

    async def never_reached(connection: Admitted[str, str]) -> None: ...

    inner.websocket("/talk/{room:path}")(talk)
    inner.websocket("/talk")(talk)
    inner.websocket("/talk/{room}/{seat}", name="a seat")(talk)
    mounted.websocket("/talk")(talk)
    outer.include_router(inner, prefix="/inner")
    app.include_router(outer, prefix="/outer")
    app.mount("/mounted", mounted)
    app.websocket("/outer/inner/talk")(never_reached)
    addresses = {key: each["address"] for key, each in document(app)["channels"].items()}
    assert addresses == {
        "talk_room": "/outer/inner/talk/{room}",
        "talk": "/outer/inner/talk",
        "a_seat": "/outer/inner/talk/{room}/{seat}",
        "talk_2": "/mounted/talk",
    }


async def room_of(connection: HTTPConnection, key: Annotated[str, Header()]) -> str:
    """A dependency that reads the path by itself."""
    return connection.path_params["room"]


class Paging(BaseModel):
    """Parameters of a page."""

    limit: int = Field(10, le=100)


def test_parameters_of_the_handshake_are_described(app: FastAPI) -> None:
    described = Field(description="Where to talk.", examples=["tea"])

    @app.websocket("/{room:path}/{item_id}")
    async def talk(
        connection: Admitted[str, str],
        room: Annotated[str, Depends(room_of), described],
        item_id: Annotated[int, Path(ge=1, description="Which one.")],
        paging: Annotated[Paging, Query()],
        color: Color,
        token: Annotated[str, Header(alias="X-Token", deprecated=True)],
        hidden: Annotated[str, Query(include_in_schema=False)] = "",
        session: Annotated[str | None, Cookie()] = None,
    ) -> None: ...

    channel = document(app)["channels"]["talk"]
    assert channel["address"] == "/{room}/{item_id}"
    assert channel["parameters"]["room"]["description"] == "Where to talk."
    assert channel["parameters"]["room"]["examples"] == ["tea"]
    assert channel["parameters"]["item_id"]["x-schema"]["minimum"] == 1
    query = channel["bindings"]["ws"]["query"]
    assert query["properties"]["limit"] == {"type": "integer", "maximum": 100, "default": 10}
    assert (list(query["properties"]), query["required"]) == (["limit", "color"], ["color"])
    headers = channel["bindings"]["ws"]["headers"]
    assert headers["required"] == ["X-Token", "key"]
    assert headers["properties"]["X-Token"]["deprecated"] is True
    assert list(channel["x-cookies"]["properties"]) == ["session"]
    assert "422" in channel["x-handshake-responses"]


def test_parameters_have_schemas_of_their_own(app: FastAPI) -> None:
    @app.websocket("/{color}")
    async def talk(
        connection: Admitted[Other, str],  # ty: ignore[invalid-type-form]
        color: Annotated[Color, Path(description="Which.")],
        filters: Annotated[Filters, Query()],
    ) -> None: ...

    found = document(app)
    parameter = found["channels"]["talk"]["parameters"]["color"]
    schema = {"type": "string", "enum": ["red", "green"], "description": "Which."}
    assert parameter == {"description": "Which.", "enum": schema["enum"], "x-schema": schema}
    assert payload(found, "Color", "talk")["properties"].keys() == {"other"}
    query = found["channels"]["talk"]["bindings"]["ws"]["query"]
    assert "$ref" not in json.dumps(query)  # a model in itself ends there


def test_a_connection_without_types_takes_any_message(app: FastAPI) -> None:
    @app.websocket("/any")
    async def anything(connection: Admitted) -> None: ...

    assert messages(document(app), "receive_anything") == ["text", "binary"]


def test_routes_without_admission_promise_nothing_of_the_engine(app: FastAPI) -> None:
    async def bare(websocket: WebSocket) -> None: ...

    app.websocket("/bare")(bare)
    app.router.routes.append(WebSocketRoute("/starlette/{room}", bare))
    found = document(app)
    for key in ("bare", "bare_room"):
        assert not any(name.startswith("x-") for name in found["channels"][key])
        assert messages(found, f"receive_{key}") == ["text", "binary"]
        assert messages(found, f"send_{key}") == ["text_sent", "binary_sent"]
    assert found["channels"]["bare_room"]["parameters"]["room"] == {"x-schema": {"type": "string"}}


def test_subprotocols_have_operations_of_their_own(app: FastAPI) -> None:
    orders = Subprotocol("orders.v1", Order, Tick, "Orders alone.")
    admission = Depends(Admission(orders, "orders.v0"))

    @app.websocket("/shop")
    async def shop(connection: Annotated[Connection[str, str], admission]) -> None: ...

    found = document(app)
    assert found["channels"]["shop"]["x-subprotocols"] == ["orders.v1", "orders.v0"]
    assert messages(found, "receive_shop") == ["text"]
    under = messages(found, "receive_shop_orders_v1")
    assert under == ["Item_orders_v1", "Tick_orders_v1"]
    assert messages(found, "send_shop_orders_v1") == ["Tick_orders_v1_sent"]
    assert "Orders alone." in found["operations"]["send_shop_orders_v1"]["description"]
    assert found["channels"]["shop"]["messages"][under[0]]["x-subprotocol"] == "orders.v1"


def test_http_routes_of_the_same_path_are_mentioned(app: FastAPI) -> None:
    async def hidden() -> None: ...

    app.post("/shop")(hidden)
    app.delete("/shop", include_in_schema=False)(hidden)
    endpoint(app, str)
    found = document(app)
    assert "takes `POST` requests" in found["channels"]["shop"]["description"]
    assert found["info"]["externalDocs"]["url"] == "http://testserver/docs"


class Keys:
    """An authenticator for the document alone."""

    subprotocols = ("v1",)

    def __init__(self, **schemes: dict[str, Any]) -> None:
        self.security_schemes = schemes

    async def identify(self, connection: HTTPConnection) -> Identity:
        raise HTTPException(401)

    async def verify(self, token: str) -> Identity:
        raise HTTPException(401)

    async def check_revoked(self, identity: Identity) -> None:
        raise HTTPException(401)


def test_security_is_that_of_the_authenticator() -> None:
    scheme = {"type": "http", "scheme": "bearer", "description": "A token."}
    app = realtime_app(authenticator=Keys(bearer=scheme))
    endpoint(app, str)
    found = asyncapi_document(app)
    assert found["components"]["securitySchemes"] == {"bearer": scheme}
    for operation in found["operations"].values():
        assert operation["security"] == [{"$ref": "#/components/securitySchemes/bearer"}]
    channel = found["channels"]["shop"]
    assert channel["x-subprotocols"] == ["v1"]
    assert "401" in channel["x-handshake-responses"]
    assert "4401" in channel["x-close-codes"]


def test_without_an_authenticator_there_is_no_security(app: FastAPI) -> None:
    endpoint(app, str)
    found = document(app)
    assert "securitySchemes" not in found["components"]
    assert "401" not in found["channels"]["shop"]["x-handshake-responses"]
    assert "4401" not in found["channels"]["shop"]["x-close-codes"]
    assert "1008" in found["channels"]["shop"]["x-close-codes"]


@pytest.mark.parametrize(
    ("base_url", "host", "root_path", "server"),
    [
        ("http://testserver", "", "", {"host": "testserver", "protocol": "ws"}),
        (
            "https://chat.example.com:8443",
            "",
            "/api/",
            {"host": "chat.example.com:8443", "protocol": "wss", "pathname": "/api"},
        ),
        ("http://[::1]:8000", "", "", {"host": "[::1]:8000", "protocol": "ws"}),
        ("http://testserver", '"><script>', "", {"host": "localhost:8000", "protocol": "ws"}),
    ],
)
def test_the_server_is_the_one_that_the_client_has_reached(
    app: FastAPI, base_url: str, host: str, root_path: str, server: dict[str, str]
) -> None:
    client = TestClient(app, base_url=base_url, root_path=root_path)
    headers = {"host": host} if host else {}
    found = client.get("/asyncapi.json", headers=headers).json()
    assert found["servers"] == {"server": server}


def test_programs_name_the_server_themselves(app: FastAPI) -> None:
    assert asyncapi_document(app)["servers"]["server"]["host"] == "localhost:8000"
    found = asyncapi_document(app, "wss://chat.example.com/api")["servers"]["server"]
    assert found == {"host": "chat.example.com", "protocol": "wss", "pathname": "/api"}


def test_what_the_application_says_of_itself_is_in_the_document() -> None:
    contact = {"name": "Zoë", "email": "zoe@example.com"}
    app = FastAPI(
        summary="Tea for all.",
        contact=contact,
        license_info={"name": "MIT", "identifier": "MIT"},
        openapi_url=None,
    )
    app.state.realtime = realtime_app().state.realtime
    info = asyncapi_document(app)["info"]
    assert info["description"].startswith("Tea for all.\n\n")
    assert (info["contact"], info["license"]) == (contact, {"name": "MIT"})
    assert "externalDocs" not in info


def test_the_document_is_strict_json(app: FastAPI) -> None:
    @app.websocket("/shop")
    async def shop(
        connection: Admitted, limit: Annotated[float, Query(examples=[inf])] = inf
    ) -> None: ...

    query = document(app)["channels"]["shop"]["bindings"]["ws"]["query"]
    assert query["properties"]["limit"] == {"type": "number", "examples": [None]}


def test_the_routes_are_not_in_openapi(app: FastAPI) -> None:
    assert app.openapi()["paths"] == {}


def test_schemas_written_by_hand_are_taken(app: FastAPI) -> None:
    schema = {"allOf": [{"type": "integer", "maximum": 0}]}
    endpoint(app, Annotated[Any, WithJsonSchema(schema)])
    assert payload(document(app), "json") == schema


def test_a_route_with_an_empty_path_is_at_the_root(app: FastAPI) -> None:
    endpoint(app, str, path="")
    assert document(app)["channels"]["shop"]["address"] == "/"


def test_parameters_of_a_mount_and_of_routers_are_described(app: FastAPI) -> None:
    async def for_all(key: Annotated[str, Header()]) -> None: ...

    router, mounted = APIRouter(), FastAPI()

    @router.websocket("/talk")
    async def talk(connection: Admitted[str, str], tenant: int) -> None: ...

    mounted.include_router(router, dependencies=[Depends(for_all)])
    app.mount("/tenants/{tenant}", mounted)
    channel = document(app)["channels"]["talk"]
    assert channel["parameters"] == {"tenant": {"x-schema": {"type": "string"}}}
    assert channel["bindings"]["ws"]["headers"]["required"] == ["key"]
