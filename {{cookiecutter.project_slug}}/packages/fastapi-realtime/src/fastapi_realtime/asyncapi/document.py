"""Creates the AsyncAPI 3.0.0 document of an application, from its routes and their signatures."""

import re
from collections import Counter
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import is_dataclass
from inspect import getdoc, isclass
from itertools import chain, count
from typing import Any, get_origin

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema, from_json, to_json
from starlette.routing import Route, WebSocketRoute

from ..admission import Admission
from ..errors import MEANINGS, CloseCode
from ..fastapi_internals import RouteContext, get_typed_signature
from ..messages import (
    ErrorCode,
    ErrorFrame,
    JsonFormat,
    Subprotocol,
    branches,
    calls_of,
    declared_types,
    find_routes,
    raw_types,
    types_under,
)
from ..realtime import Realtime

Schema = dict[str, Any]
Messages = list[tuple[Any, Schema]]
"""Types of messages, and what is known of each without its schema."""

JSON, BINARY = "application/json", "application/octet-stream"
DEFAULT_SERVER = "ws://localhost:8000"
RAW = {
    str: {"name": "text", "contentType": "text/plain", "description": "Text."},
    bytes: {"name": "binary", "contentType": BINARY, "description": "Binary data."},
}

ABOUT = """\
A handshake that is refused gets an HTTP response (`x-handshake-responses`); browsers show 1006. \
An open connection is closed with a code that says why (`x-close-codes`). Reconnect after 1001, \
1006, 1011, 1012 and 1013, with a random delay; after others, don't, unless the endpoint says so."""

REFUSALS = {
    401: "No valid token.",
    403: "A web page of another origin, or not allowed.",
    404: "No such path.",
    422: "A parameter is missing or invalid.",
    429: "Too many connections or joins from this address.",
    503: "The server is full, or stopping: try again after a random delay.",
}
"""Responses to rejected handshakes, by status."""

names_in = re.compile(r"\{(\w+)\}").findall
"""Returns the names of the parameters in a path."""


def asyncapi_document(app: FastAPI, server: str = DEFAULT_SERVER) -> Schema:
    """Return the AsyncAPI 3.0.0 document of an application; `server` is the URL for clients.

    Raises pydantic's exceptions for types in a signature that it does not support.
    """
    contexts: dict[str, RouteContext] = {}
    methods: dict[str, set[str]] = {}
    for prefix, context in find_routes(app.routes):
        address = f"{prefix}{context.path_format or context.path or ''}" or "/"
        if isinstance(context.original_route, WebSocketRoute):
            contexts.setdefault(address, context)  # the first one gets all handshakes
        elif isinstance(context.original_route, Route) and context.include_in_schema:
            methods.setdefault(address, set()).update(context.methods or ())
    named_alike = Counter(context.name for context in contexts.values())
    document = Document(app.state.realtime)
    for address, context in contexts.items():
        names = [context.name or "", *(names_in(address) if named_alike[context.name] > 1 else ())]
        key = "_".join(filter(None, map(identifier, names))) or "websocket"
        about = getdoc(context.endpoint) or ""
        if taken := " and ".join(f"`{method}`" for method in sorted(methods.get(address, ()))):
            about += f"\n\n`{address}` also takes {taken} requests: see the HTTP documentation."
        document.add(unused(key, document.channels), address, about.strip(), context)
    return start_of(app, server) | document.finish()


def start_of(app: FastAPI, server: str) -> Schema:
    """Return the start of the document, the only part that depends on the server."""
    protocol, _, rest = server.rstrip("/").partition("://")
    host, slash, path = rest.partition("/")
    info = {"title": app.title, "version": app.version} | some(
        description="\n\n".join(filter(None, [app.summary, app.description, ABOUT])),
        termsOfService=app.terms_of_service,
        contact=app.contact,
        license={k: v for k, v in (app.license_info or {}).items() if k in ("name", "url")},
    )
    if app.openapi_url and app.docs_url:
        url = f"{protocol.replace('ws', 'http')}://{rest}{app.docs_url}"
        about = "The HTTP routes of the same application"
        info["externalDocs"] = {"url": url, "description": about}
    where = some(host=host, protocol=protocol, pathname=slash + path)
    return {"asyncapi": "3.0.0", "info": info, "servers": {"server": where}}


def some(**pairs: Any) -> Schema:
    """Return what is not empty."""
    return {key: value for key, value in pairs.items() if value}


class Document:
    """Collects channels and operations; the schemas of all messages are made at once."""

    def __init__(self, realtime: Realtime) -> None:
        self.realtime = realtime
        self.schemes = realtime.authenticator.security_schemes if realtime.authenticator else {}
        self.channels: Schema = {}
        self.operations: Schema = {}
        self.types: list[tuple[tuple[str, str], Any, TypeAdapter[Any]]] = []

    def add(self, key: str, address: str, about: str, context: RouteContext) -> None:
        """Add a WebSocket route, with its messages without and with each subprotocol."""
        dependant, tags = (getattr(context, name, None) for name in ("dependant", "tags"))
        calls = calls_of(dependant)
        admission = next((each for each in calls if isinstance(each, Admission)), None)
        places = parameters_of(address, context)
        binding = some(query=places["query"], headers=places["header"])
        self.channels[key] = {"messages": {}} | some(
            address=address,
            title=address,
            description=about,
            bindings={"ws": {"method": "GET", **binding, "bindingVersion": "0.1.0"}},
            parameters=places["path"],
            tags=[{"name": str(getattr(tag, "value", tag))} for tag in tags or ()],
            **{"x-cookies": places["cookie"]},
        )
        if admission:
            hidden = set() if self.realtime.authenticator else {401, CloseCode.UNAUTHORIZED}
            hidden |= set() if any(places.values()) else {422}
            names = [*admission.subprotocols, *self.realtime.subprotocols]
            self.channels[key]["x-subprotocols"] = [str(name) for name in names]
            closes = MEANINGS | admission.close_codes
            for name, codes in ("x-handshake-responses", REFUSALS), ("x-close-codes", closes):
                shown = {str(int(k)): {"description": codes[k]} for k in codes if k not in hidden}
                self.channels[key][name] = shown
        declared = declared_types(dependant)
        names = admission.subprotocols if admission else ()
        for name in (None, *(each for each in names if isinstance(each, Subprotocol))):
            types = types_under(name, declared)
            hidden = () if name is None or self.realtime.authenticator else name.with_tokens
            received = [each for each in messages_of(types.incoming) if each[0] not in hidden]
            sent = messages_of(types.outgoing)
            if admission and name is None:
                sent.append((ErrorFrame, error_message(is_json=types.schema is not None)))
            self.add_operation("receive", "Clients send", key, name, received)
            self.add_operation("send", "Clients receive", key, name, sent)

    def add_operation(
        self, action: str, who: str, key: str, subprotocol: Subprotocol | None, messages: Messages
    ) -> None:
        """Add messages and their operation, from the application's point of view."""
        channel, keys = self.channels[key], []
        suffix = f"_{identifier(subprotocol)}" if subprotocol else ""
        for kind, message in messages:
            name = f"{message['name']}{suffix}"
            name += "_sent" if action == "send" and name in channel["messages"] else ""
            keys.append(name := unused(name, channel["messages"]))
            channel["messages"][name] = message | some(**{"x-subprotocol": str(subprotocol or "")})
            mode = "validation" if action == "receive" else "serialization"
            self.types.append(((key, name), mode, TypeAdapter(kind)))
        under = f" under `{subprotocol}`" if subprotocol else ""
        about = f" {subprotocol.summary}" if subprotocol else ""
        schemes = self.schemes if "x-close-codes" in channel else ()
        operation = some(
            action=action,
            channel={"$ref": f"#/channels/{key}"},
            title=f"{who}{under}",
            summary=channel.get("description", "").partition("\n")[0],
            description=f"{who} these messages at {channel['address']}{under}.{about}",
            messages=[{"$ref": f"#/channels/{key}/messages/{name}"} for name in keys],
            security=[{"$ref": f"#/components/securitySchemes/{name}"} for name in schemes],
        )
        self.operations |= {f"{action}_{key}{suffix}": operation} if keys else {}

    def finish(self) -> Schema:
        """Return the document, with the schemas of all messages and what these say of them."""
        payloads, shared = TypeAdapter.json_schemas(
            self.types, ref_template="#/components/schemas/{model}", schema_generator=Schemas
        )
        schemas = shared.get("$defs", {})
        for (key, name), mode, adapter in self.types:
            payload, message = payloads[(key, name), mode], self.channels[key]["messages"][name]
            schema = message | schemas.get(key_of(payload), payload)
            examples = []
            for example in message.pop("examples", ()) or schema.get("examples", ()):
                with suppress(ValidationError):  # an invalid one makes the document invalid
                    adapter.validate_json(to_json(example))
                    examples.append({"payload": example})
            about = schema.get("description", "").partition("\n")[0]
            message |= {"title": schema.get("title", message["name"]), "payload": payload}
            message |= some(summary=about, examples=examples)
            message.pop("description", "")
        return {
            "defaultContentType": JSON,
            "channels": self.channels,
            "operations": self.operations,
            "components": some(schemas=schemas, securitySchemes=self.schemes),
        }


def messages_of(declared: Any) -> Messages:
    """Return a message for each model of a union; any other type is one message."""
    parts = branches(declared)
    if raw_types(declared) is not None:
        return [(kind, RAW[kind] | notes_of(notes)) for kind, notes in parts]
    if all(is_model(kind) for kind, _ in parts):
        names = {kind: identifier(getattr(kind, "__name__", str(kind))) for kind, _ in parts}
        return [(kind, {"name": names[kind] or "json", "contentType": JSON}) for kind, _ in parts]
    return [(declared, {"name": "json", "contentType": JSON, "description": "JSON."})]


def is_model(kind: Any) -> bool:
    """Return whether a type is a pydantic model, a dataclass or a `TypedDict`."""
    kind = get_origin(kind) or kind  # of a generic dataclass
    is_typed_dict = hasattr(kind, "__required_keys__")
    return isclass(kind) and (is_typed_dict or is_dataclass(kind) or issubclass(kind, BaseModel))


def notes_of(annotated: Iterable[Any]) -> Schema:
    """Return what a `Field` among the annotations of a type says for documentation."""
    fields = [note for note in annotated if isinstance(note, FieldInfo)]
    found = [some(description=each.description, examples=each.examples) for each in fields]
    return found[-1] if found else {}


def error_message(*, is_json: bool) -> Schema:
    """Return the error frame, with an example for each code that the engine sends."""
    codes = [ErrorCode.INVALID_JSON, ErrorCode.INVALID_SHAPE, ErrorCode.TEXT_EXPECTED] * is_json
    codes.append(ErrorCode.RATE_LIMITED)
    paths = {ErrorCode.INVALID_SHAPE: "data.price"}
    examples = [from_json(JsonFormat().reject("", each, paths.get(each, ""))) for each in codes]
    return {"name": "error", "contentType": JSON, "examples": examples}


def parameters_of(address: str, context: RouteContext) -> dict[str, Schema]:
    """Return the parameters in the path, and an object schema of those in each other place.

    FastAPI describes them as those of an HTTP route. The endpoint itself describes what its
    dependencies read from the path: `room: Annotated[str, Depends(...), Field(...)]`.
    """
    path: Schema = {name: {"type": "string"} for name in names_in(address)}
    places: dict[str, Schema] = {"path": path, "query": {}, "header": {}, "cookie": {}}
    call = context.endpoint
    if call and getattr(context, "dependant", None):
        signature = get_typed_signature(call).parameters
        for name in path.keys() & signature:
            path[name] |= notes_of(getattr(signature[name].annotation, "__metadata__", ()))
        router, route = APIRouter(dependencies=context.dependencies), context.path_format or "/"
        router.add_api_route(route, call, response_model=None)
        openapi = get_openapi(title="", version="", routes=router.routes)
        definitions = openapi.get("components", {}).get("schemas", {})
        for each in openapi["paths"][route]["get"].get("parameters", ()):
            name, place, schema = each["name"], each["in"], inlined(each["schema"], definitions)
            schema.pop("title", None)
            if place != "path":
                parent = places[place] = places[place] or {"type": "object", "properties": {}}
                parent["properties"][name] = schema
                if each["required"]:
                    parent.setdefault("required", []).append(name)
            elif name in path:
                path[name] = schema
    for name, schema in path.items():
        values = {word: list(map(str, schema.get(word, ()))) for word in ("enum", "examples")}
        path[name] = some(description=schema.get("description"), **values, **{"x-schema": schema})
    return places


def inlined(schema: Any, definitions: Schema, seen: tuple[str, ...] = ()) -> Any:
    """Return a schema without references, whose names may be those of messages."""
    if isinstance(schema, list):
        return [inlined(each, definitions, seen) for each in schema]
    if not isinstance(schema, dict):
        return schema
    name = key_of(schema)
    found = {} if name in ("", *seen) else inlined(definitions[name], definitions, (*seen, name))
    return found | {
        key: inlined(each, definitions, seen) for key, each in schema.items() if key != "$ref"
    }


def key_of(schema: Schema) -> str:
    """Return the key that an object refers to, or an empty string."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def identifier(text: str) -> str:
    """Return a text with runs of anything but ASCII letters, digits and `_` replaced by `_`."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")


def unused(name: str, used: Container[str]) -> str:
    """Return a name, with a number appended if it is in use."""
    numbered = (f"{name}_{number}" for number in count(2))
    return next(each for each in chain([name], numbered) if each not in used)


class Schemas(GenerateJsonSchema):
    """Generates schemas for AsyncAPI 3.0: JSON Schema draft 7, without OpenAPI's discriminator."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> Schema:
        """Drop the discriminator: AsyncAPI requires its values to be schema names."""
        union = super().tagged_union_schema(schema)
        union.pop("discriminator", None)
        return union

    def tuple_schema(self, schema: core_schema.TupleSchema) -> Schema:
        """Draft 7 uses `items` and `additionalItems` instead of `prefixItems` and `items`."""
        array = super().tuple_schema(schema)
        if "prefixItems" in array:
            array["additionalItems"] = array.pop("items", False)
            array["items"] = array.pop("prefixItems")
        return array

    def field_is_required(self, field: Any, total: bool) -> bool:
        """Outgoing messages have all fields but those whose default is `None`.

        A field with a single value is always required: in a union, it identifies the type.
        """
        schema = field["schema"]
        is_constant = len(schema.get("schema", {}).get("expected", ())) == 1
        is_sent = self.mode == "serialization" and schema.get("default") is not None
        return is_constant or is_sent or super().field_is_required(field, total)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        """Allow any value for a type that JSON Schema cannot describe."""
        return {}
