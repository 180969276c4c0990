"""AsyncAPI channels and operations; each endpoint has one channel."""

from typing import Any

from .endpoints import Endpoint
from .messages import Exchange, Message, identifier, unused
from .parameters import Parameter
from .schemas import Schemas

BINDING_VERSION = "0.1.0"


def channel_of(endpoint: Endpoint, schemas: Schemas) -> dict[str, Any]:
    """Return the channel of an endpoint."""
    messages = {}
    for exchange in endpoint.exchanges:
        for key, message in keyed(exchange).items():
            messages[key] = message_of(message, exchange, schemas)
    channel = {
        "address": endpoint.address,
        "title": endpoint.address,
        "description": "\n\n".join(filter(None, [endpoint.description, http_note(endpoint)])),
        "messages": messages,
        "parameters": path_parameters(endpoint, schemas),
        "tags": [{"name": tag} for tag in endpoint.tags],
        "bindings": {"ws": binding_of(endpoint, schemas)},
        "x-cookies": object_of(endpoint, "cookie", schemas),
    }
    return {key: value for key, value in channel.items() if value}


def http_note(endpoint: Endpoint) -> str:
    """Return a note about HTTP routes with the same path, which are documented by OpenAPI."""
    methods = " and ".join(f"`{method}`" for method in endpoint.http_methods)
    note = f"`{endpoint.address}` also takes {methods} requests: see the HTTP documentation."
    return note if methods else ""


def keyed(exchange: Exchange) -> dict[str, Message]:
    """Return messages by keys that are unique in a channel, across its subprotocols."""
    keys: dict[str, Message] = {}
    suffix = suffix_of(exchange)
    for message in exchange.incoming:
        keys[unused(f"{message.name}{suffix}", keys)] = message
    for message in exchange.outgoing:
        key = f"{message.name}{suffix}"
        keys[unused(f"{key}_sent" if key in keys else key, keys)] = message
    return keys


def suffix_of(exchange: Exchange) -> str:
    """Return the suffix of names under a subprotocol, or an empty string."""
    return f"_{identifier(exchange.subprotocol)}" if exchange.subprotocol else ""


def message_of(message: Message, exchange: Exchange, schemas: Schemas) -> dict[str, Any]:
    """Return a message, with title and summary of its model."""
    schema = schemas.resolved(message)
    described = {
        "name": message.name,
        "title": schema.get("title", message.name),
        "summary": (schema.get("description") or message.description).partition("\n")[0],
        "contentType": message.content_type,
        "payload": schemas[message],
        "examples": [{"payload": example} for example in schemas.examples(message)],
        "x-subprotocol": str(exchange.subprotocol or ""),
    }
    return {key: value for key, value in described.items() if value or key == "payload"}


def operations_of(channel: str, endpoint: Endpoint, security: list[str]) -> dict[str, Any]:
    """Return the receive and send operations of an endpoint, for each subprotocol."""
    schemes = [{"$ref": f"#/components/securitySchemes/{name}"} for name in security]
    operations = {
        f"{action}_{channel}{suffix_of(exchange)}": operation_of(
            action, channel, endpoint, exchange
        )
        for exchange in endpoint.exchanges
        for action in ("receive", "send")
    }
    return {
        key: operation | ({"security": schemes} if schemes else {})
        for key, operation in operations.items()
        if operation["messages"]
    }


def operation_of(
    action: str, channel: str, endpoint: Endpoint, exchange: Exchange
) -> dict[str, Any]:
    """Return an operation, from the application's point of view."""
    is_receive = action == "receive"
    messages = exchange.incoming if is_receive else exchange.outgoing
    keys = [key for key, message in keyed(exchange).items() if message in messages]
    who = "Clients send" if is_receive else "Clients receive"
    under = f" under `{exchange.subprotocol}`" if exchange.subprotocol else ""
    about = f" {exchange.subprotocol.summary}" if exchange.subprotocol else ""
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "title": f"{who}{under}",
        "summary": endpoint.description.partition("\n")[0],
        "description": f"{who} these messages at {endpoint.address}{under}.{about}",
        "messages": [{"$ref": f"#/channels/{channel}/messages/{key}"} for key in keys],
    }


def path_parameters(endpoint: Endpoint, schemas: Schemas) -> dict[str, Any]:
    """Return the path parameters; AsyncAPI requires their values to be strings."""
    found = {}
    for parameter in endpoint.parameters:
        if parameter.place == "path":
            schema = schema_of(parameter, schemas)
            described = {
                "description": schema.get("description"),
                "enum": [str(each) for each in schema.get("enum", ())],
                "examples": [str(example) for example in schema.get("examples", ())],
                "x-schema": schema,
            }
            found[parameter.name] = {key: each for key, each in described.items() if each}
    return found


def binding_of(endpoint: Endpoint, schemas: Schemas) -> dict[str, Any]:
    """Return the WebSocket binding, with query and header parameters of the handshake."""
    binding: dict[str, Any] = {"method": "GET"}
    for key, place in (("query", "query"), ("headers", "header")):
        if schema := object_of(endpoint, place, schemas):
            binding[key] = schema
    return binding | {"bindingVersion": BINDING_VERSION}


def object_of(endpoint: Endpoint, place: str, schemas: Schemas) -> dict[str, Any]:
    """Return an object schema of all parameters in one place, empty if there are none."""
    chosen = [parameter for parameter in endpoint.parameters if parameter.place == place]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {each.name: schema_of(each, schemas) for each in chosen},
    }
    if required := [each.name for each in chosen if each.required]:
        schema["required"] = required
    return schema if chosen else {}


def schema_of(parameter: Parameter, schemas: Schemas) -> dict[str, Any]:
    """Return the schema of a parameter, with description, examples and default."""
    schema = schemas[parameter]
    if "$ref" in schema and parameter.notes:
        return {"allOf": [schema]} | parameter.notes
    return schema | parameter.notes
