"""The events in client.d.ts are those of the server."""

import json
import re
from pathlib import Path
from typing import Any

import fastapi_realtime
from fastapi_realtime.rooms import ServerEvent
from pydantic import TypeAdapter

TYPES = Path(fastapi_realtime.__file__).parent / "client/client.d.ts"
INTERFACE = re.compile(r"^export interface (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^  (\w+\??): (.*);$", re.MULTILINE)
NAMES = {"string": "string", "integer": "number"}
NULL = {"type": "null"}

Fields = dict[str, str]


def interfaces() -> dict[str, Fields]:
    """Return the fields of each interface, with a question mark if optional, and their types."""
    found = INTERFACE.findall(TYPES.read_text("utf-8"))
    return {name: dict(FIELD.findall(body)) for name, body in found}


def typescript(schema: dict[str, Any]) -> str:
    """Return a JSON schema as a type in TypeScript."""
    match schema:
        case {"$ref": ref}:
            return ref.rpartition("/")[2]
        case {"const": value}:
            return json.dumps(value)
        case {"enum": values}:
            return " | ".join(map(json.dumps, values))
        case {"items": item}:
            return f"{typescript(item)}[]"
        case _:
            return NAMES[schema["type"]]


def fields(schema: dict[str, Any]) -> Fields:
    """Return the same for a schema; what may be null is left out where it is."""
    found = {}
    for name, value in schema["properties"].items():
        choices = value.get("anyOf", [value])
        (kind,) = [choice for choice in choices if choice != NULL]
        found[name + "?" * (NULL in choices)] = typescript(kind)
    return found


def test_the_types_are_those_of_the_servers_events() -> None:
    schemas = TypeAdapter(ServerEvent).json_schema(mode="serialization")["$defs"]
    events = {name: fields(schema) for name, schema in schemas.items() if "properties" in schema}
    declared = interfaces()
    assert {name: declared.get(name) for name in events} == events
    own = {"StateChange", "RoomEventMap", "RoomOptions", "SendOptions", "JoinOptions"}
    assert declared.keys() - events.keys() == own


def test_every_event_that_is_dispatched_has_the_types_of_the_server() -> None:
    declared = interfaces()
    dispatched = declared["RoomEventMap"]
    assert dispatched.pop("state") == "CustomEvent<StateChange>"
    names = {name for name, body in declared.items() if name.endswith("Event")}
    kinds = {
        kind: {name for name in names if f'"{kind}"' in declared[name]["type"]}
        for kind in dispatched
    }
    expected = {kind: f"CustomEvent<{' | '.join(sorted(kinds[kind]))}>" for kind in kinds}
    assert dispatched == expected
    answers = {"AcceptedEvent", "PongEvent"}
    assert set().union(*kinds.values()) == names - answers
