"""HTML tables of the fields of messages."""

import json
from typing import Any

from .html import Html, code_in, element, join, table

Schema = dict[str, Any]
Definitions = dict[str, Schema]

LIST_LIMITS = {"minItems": "min. items", "maxItems": "max. items"}
LIMITS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "over",
    "exclusiveMaximum": "under",
    "multipleOf": "multiple of",
    "minLength": "min. length",
    "maxLength": "max. length",
    "minProperties": "min. keys",
    "maxProperties": "max. keys",
    "pattern": "pattern",
    "format": "format",
}


def fields_table(payload: Schema, definitions: Definitions) -> Html:
    """Return a table of the fields of a message, and one for each model in it."""
    parts: list[str] = []
    waiting, seen = [payload], set()
    while waiting:
        schema = waiting.pop(0)
        key = key_of(schema)
        if key and key in seen:
            continue
        seen.add(key)
        schema = definitions.get(key, schema)
        is_message = schema is payload or key == key_of(payload)
        parts.append(described(schema, definitions, "" if is_message else shown_name(key)))
        waiting += references(schema)
    return element("div", *parts) if any(parts) else Html("")


def described(schema: Schema, definitions: Definitions, name: str) -> Html:
    """Return a table of a schema's fields, or its type if it has none; a message has no `name`."""
    rows = described_fields(schema, definitions)
    if rows:
        heading = element("p", "Fields of ", element("code", name), ":") if name else ""
        return join([heading, table(("Field", "Type", "Meaning"), rows)])
    kind = type_of(schema, definitions)
    if "enum" in schema or kind in ("any", "object", "string", "string, format binary"):
        return Html("")  # enums are shown where they are used
    return element("p", element("code", name or "JSON"), ": ", kind)


def described_fields(schema: Schema, definitions: Definitions) -> list[tuple[str, ...]]:
    """Return name, type and meaning of each field; optional fields are marked."""
    required = schema.get("required", [])
    rows: list[tuple[str, ...]] = []
    for name, each in schema.get("properties", {}).items():
        title = element("code", name)
        is_required = name in required
        meaning = each.get("description", "") + ("" if is_required else default_of(each))
        optional = "" if is_required else " (optional)"
        rows.append((Html(title + optional), type_of(each, definitions), code_in(meaning)))
    return rows


def default_of(schema: Schema) -> str:
    """Return a sentence about the default, or an empty string."""
    default = schema.get("default")
    return f" Default: `{json.dumps(default, ensure_ascii=False)}`." if default is not None else ""


def key_of(schema: Schema) -> str:
    """Return the key of the definition that a schema refers to, or an empty string."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def shown_name(key: str) -> str:
    """Return the name of a model without the mode that pydantic may append."""
    return key.removesuffix("-Input").removesuffix("-Output")


def type_of(schema: Schema, definitions: Definitions) -> str:
    """Return a short description of a type."""
    if key := key_of(schema):
        found = definitions.get(key, {})
        return type_of(found, definitions) if "enum" in found else shown_name(key)
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            types = (type_of(each, definitions) for each in schema[word])
            return " or ".join(dict.fromkeys(types))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values:
        return " or ".join(json.dumps(each, ensure_ascii=False) for each in values)
    kind = schema.get("type", "any")
    if kind == "array":
        return list_of(schema, definitions)
    limited = ", ".join([kind, *limits_of(schema, LIMITS)])
    value = value_of(schema)
    return f"{limited}, each value: {type_of(value, definitions)}" if value else limited


def list_of(schema: Schema, definitions: Definitions) -> str:
    """Return a short description of a list, or of each item of a tuple."""
    items = schema.get("items", {})
    if isinstance(items, list):
        return f"tuple ({'; '.join(type_of(each, definitions) for each in items)})"
    limits = ", ".join(limits_of(schema, LIST_LIMITS))
    kind = "list of different" if schema.get("uniqueItems") else "list of"
    return f"{kind} {type_of(items, definitions)}{f' ({limits})' if limits else ''}"


def value_of(schema: Schema) -> Schema:
    """Return the schema of the values of a dictionary; empty if any value is allowed."""
    values = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
    return next((each for each in values if isinstance(each, dict)), {})


def limits_of(schema: Schema, words: dict[str, str]) -> list[str]:
    """Return the limits of a schema in words."""
    return [f"{word} {schema[key]}" for key, word in words.items() if key in schema]


def references(schema: Schema) -> list[Schema]:
    """Return the references in the fields and branches of a schema."""
    parts = [*schema.get("properties", {}).values()]
    parts += [value] if (value := value_of(schema)) else []
    for key in ("anyOf", "oneOf", "allOf"):
        parts += schema.get(key, ())
    items = schema.get("items", [])
    parts += items if isinstance(items, list) else [items]
    return [ref for part in parts for ref in ([part] if "$ref" in part else references(part))]
