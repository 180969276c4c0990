"""Creates the AsyncAPI 3.0.0 document of an application."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI

from ..close_codes import MEANINGS, CloseCode
from ..realtime import Realtime
from .channels import channel_of, operations_of
from .endpoints import Endpoint, find_endpoints
from .messages import identifier, name_of, unused
from .schemas import Schemas

ABOUT = """\
A handshake that is refused gets an HTTP response (`x-handshake-responses`); browsers show 1006. \
An open connection is closed with a code that says why (`x-close-codes`). Reconnect after 1001, \
1006, 1011, 1012 and 1013, with a random delay; after others, don't, unless the endpoint says so."""

REFUSALS = {
    "401": "No valid token.",
    "403": "A web page of another origin, or not allowed.",
    "404": "No such path.",
    "422": "A parameter is missing or invalid.",
    "429": "Too many connections or joins from this address.",
    "503": "The server is full, or stopping: try again after a random delay.",
}
"""Responses to rejected handshakes, by status."""


def make_document(app: FastAPI, realtime: Realtime) -> dict[str, Any]:
    """Return the document without servers, which depend on the host that a client requests."""
    endpoints = named(find_endpoints(app.routes))
    if realtime.authenticator is None:
        leave_out_tokens(endpoints.values())
    described = [
        *(message for each in endpoints.values() for message in messages_of(each)),
        *(parameter for each in endpoints.values() for parameter in each.parameters),
    ]
    schemas = Schemas(described)
    channels, operations = {}, {}
    schemes = realtime.authenticator.security_schemes if realtime.authenticator else {}
    for key, endpoint in endpoints.items():
        channels[key] = channel_of(endpoint, schemas) | limits_of(endpoint, realtime)
        security = list(schemes) if endpoint.admission else []
        operations |= operations_of(key, endpoint, security)
    components = {"schemas": schemas.definitions, "securitySchemes": schemes}
    return {
        "asyncapi": "3.0.0",
        "info": info_of(app),
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {key: value for key, value in components.items() if value},
    }


def info_of(app: FastAPI) -> dict[str, Any]:
    """Return the `info` object, from the same fields as OpenAPI's."""
    info: dict[str, Any] = {"title": app.title, "version": app.version}
    info["description"] = "\n\n".join(filter(None, [app.summary, app.description, ABOUT]))
    license_info = app.license_info or {}
    others = {
        "termsOfService": app.terms_of_service,
        "contact": app.contact,
        "license": {key: license_info[key] for key in ("name", "url") if key in license_info},
    }
    return info | {key: other for key, other in others.items() if other}


def named(endpoints: list[Endpoint]) -> dict[str, Endpoint]:
    """Return endpoints by unique names: the function's, with path parameters if ambiguous."""
    count = Counter(endpoint.name for endpoint in endpoints)
    keys: dict[str, Endpoint] = {}
    for endpoint in endpoints:
        in_path = [identifier(each.name) for each in endpoint.parameters if each.place == "path"]
        is_unique = count[endpoint.name] == 1
        name = endpoint.name if is_unique else "_".join([endpoint.name, *in_path])
        keys[unused(name, keys)] = endpoint
    return keys


def leave_out_tokens(endpoints: Iterable[Endpoint]) -> None:
    """Remove messages that make sense only with tokens."""
    for exchange in (each for endpoint in endpoints for each in endpoint.exchanges):
        if exchange.subprotocol is not None:
            names = {name_of(kind) for kind in exchange.subprotocol.with_tokens}
            exchange.incoming = [each for each in exchange.incoming if each.name not in names]


def messages_of(endpoint: Endpoint) -> list[Any]:
    """Return all messages of an endpoint."""
    return [
        message
        for exchange in endpoint.exchanges
        for message in (*exchange.incoming, *exchange.outgoing)
    ]


def limits_of(endpoint: Endpoint, realtime: Realtime) -> dict[str, Any]:
    """Return subprotocols, handshake responses and close codes of an endpoint with admission."""
    if endpoint.admission is None:
        return {}
    has_tokens = realtime.authenticator is not None
    optional = {"401": has_tokens, "422": bool(endpoint.parameters)}
    return {
        "x-subprotocols": [*endpoint.subprotocols, *realtime.subprotocols],
        "x-handshake-responses": {
            status: {"description": reason}
            for status, reason in REFUSALS.items()
            if optional.get(status, True)
        },
        "x-close-codes": {
            str(int(code)): {"description": meaning}
            for code, meaning in MEANINGS.items()
            if has_tokens or code != CloseCode.UNAUTHORIZED
        }
        | {
            str(code): {"description": meaning}
            for code, meaning in endpoint.admission.close_codes.items()
        },
    }
