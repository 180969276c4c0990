"""Fields of messages, as tables for people."""

import json
from typing import Any

from .html import Html, code_in, element, table

Schema = dict[str, Any]


def fields_table(payload: Schema, definitions: dict[str, Schema]) -> Html:
    """Return the fields of a message, and of the models in it, each in a table of its own."""
    tables: list[str] = []
    waiting, seen = [payload], set()
    while waiting:
        schema = waiting.pop(0)
        name = schema.get("$ref", "").rpartition("/")[2]
        schema = definitions.get(name, schema)
        if name and name in seen:
            continue
        seen.add(name)
        rows = described_fields(schema)
        if rows and schema is not definitions.get(payload.get("$ref", "").rpartition("/")[2]):
            tables.append(element("p", "Fields of ", element("code", name or "the message"), ":"))
        tables.append(table(("Field", "Type", "Meaning"), rows))
        waiting += references(schema)
    return element("div", *tables) if any(tables) else Html("")


def described_fields(schema: Schema) -> list[tuple[str, ...]]:
    """Return name, type and meaning of each field; names of optional ones say so."""
    required = schema.get("required", [])
    rows: list[tuple[str, ...]] = []
    for name, each in schema.get("properties", {}).items():
        title = element("code", name)
        is_required = name in required
        meaning = each.get("description", "") + ("" if is_required else default_of(each))
        optional = "" if is_required else " (optional)"
        rows.append((Html(title + optional), type_of(each), code_in(meaning)))
    return rows


def default_of(schema: Schema) -> str:
    """Return a sentence on the default, if there is one."""
    default = schema.get("default")
    return f" Default: `{json.dumps(default, ensure_ascii=False)}`." if default is not None else ""


def type_of(schema: Schema) -> str:
    """Return a type in a few words."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(type_of(each) for each in schema[key]))
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "enum" in schema:
        return " or ".join(json.dumps(each, ensure_ascii=False) for each in schema["enum"])
    if schema.get("type") == "array" and isinstance(schema.get("items"), dict):
        return f"list of {type_of(schema['items'])}"
    kind = schema.get("type", "any")
    return f"{kind}{limits_of(schema)}"


def limits_of(schema: Schema) -> str:
    """Return the limits of a number, a text or a list."""
    words = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "over",
        "exclusiveMaximum": "under",
        "minLength": "min. length",
        "maxLength": "max. length",
        "pattern": "pattern",
        "format": "format",
    }
    limits = [f"{word} {schema[key]}" for key, word in words.items() if key in schema]
    return f", {', '.join(limits)}" if limits else ""


def references(schema: Schema) -> list[Schema]:
    """Return what the fields of a schema, or its branches, refer to."""
    parts = [*schema.get("properties", {}).values()]
    for key in ("anyOf", "oneOf", "allOf"):
        parts += schema.get(key, ())
    for key in ("items", "additionalProperties"):
        inner = schema.get(key)
        parts += inner if isinstance(inner, list) else [inner] if isinstance(inner, dict) else []
    return [ref for part in parts for ref in ([part] if "$ref" in part else references(part))]
