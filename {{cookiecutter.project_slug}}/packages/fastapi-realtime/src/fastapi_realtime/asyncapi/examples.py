"""Creates an example value for a JSON Schema."""

from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

FORMATS = {
    "date": "2030-01-31",
    "date-time": "2030-01-31T12:00:00Z",
    "duration": "PT1H",
    "email": "zoe@example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "time": "12:00:00Z",
    "uri": "https://example.com/",
    "uuid": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
}


class NoExampleError(Exception):
    """There is no finite example, for instance of a model that must contain itself."""


def example_of(schema: Schema, definitions: dict[str, Schema], seen: tuple[str, ...] = ()) -> Any:
    """Return an example, enum value, constant or default of the schema, or else a made-up value."""
    if "$ref" in schema and "examples" not in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name in seen:
            raise NoExampleError(name)
        return example_of(definitions[name], definitions, (*seen, name))
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    if "const" in schema or schema.get("default") is not None:
        return schema.get("const", schema.get("default"))

    def inner(part: Schema) -> Any:
        return example_of(part, definitions, seen)

    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    return first_of(branches, inner) if branches else made_up(schema, inner)


def first_of(branches: list[Schema], inner: Callable[[Schema], Any]) -> Any:
    """Return an example of the first branch that has one."""
    for branch in branches:
        try:
            return inner(branch)
        except NoExampleError:
            continue
    raise NoExampleError("no branch has one")


def made_up(schema: Schema, inner: Callable[[Schema], Any]) -> Any:
    """Return a value of the schema's type."""
    match schema.get("type"):
        case "object":
            return {key: inner(schema["properties"][key]) for key in fields_of(schema)}
        case "array":
            return array_of(schema, inner)
        case "string":
            return string_of(schema)
        case "integer" | "number":
            return number_of(schema)
        case "boolean":
            return True
        case "null":
            return None
    return {"hello": "world"}


def fields_of(schema: Schema) -> list[str]:
    """Return the fields to include in an example: required ones, and those with examples."""
    required = schema.get("required", [])
    properties: dict[str, Schema] = schema.get("properties", {})
    return [key for key, each in properties.items() if key in required or has_examples(each)]


def has_examples(schema: Schema) -> bool:
    """Return whether a schema, or a branch of it, has examples."""
    return "examples" in schema or any("examples" in each for each in schema.get("anyOf", ()))


def array_of(schema: Schema, inner: Callable[[Schema], Any]) -> list[Any]:
    """Return all items of a tuple, `minItems` (or one) of a list, none if items have no example."""
    items, least = schema.get("items", {}), schema.get("minItems", 1)
    if isinstance(items, list):
        return [inner(item) for item in items]
    try:
        return [inner(items)] * max(1, least)
    except NoExampleError:
        if "minItems" in schema:
            raise
        return []


def string_of(schema: Schema) -> str:
    """Return a string of the schema's format and length; `pattern` is ignored."""
    text = FORMATS.get(schema.get("format", ""), "text")
    return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]


def number_of(schema: Schema) -> float:
    """Return the minimum, or 1 if there is none; at most the maximum."""
    if "exclusiveMinimum" in schema:
        return schema["exclusiveMinimum"] + 1
    least = schema.get("minimum", schema.get("multipleOf", 1))
    return min(least, schema.get("maximum", schema.get("exclusiveMaximum", least + 1) - 1))
