"""JSON Schemas of all messages and parameters, with shared definitions."""

from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema, to_json

from .examples import NoExampleError, example_of
from .messages import JSON, Message
from .parameters import Parameter

REF = "#/components/schemas/{model}"


class SchemaGenerator(GenerateJsonSchema):
    """Generates schemas for AsyncAPI 3.0: JSON Schema draft 7, without OpenAPI's discriminator."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> dict[str, Any]:
        """Drop the discriminator: AsyncAPI requires its values to be schema names."""
        union = super().tagged_union_schema(schema)
        union.pop("discriminator", None)
        return union

    def tuple_schema(self, schema: core_schema.TupleSchema) -> dict[str, Any]:
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

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        """Allow any value for a type that JSON Schema cannot describe."""
        return {}


class Schemas:
    """The schemas of messages and parameters."""

    def __init__(self, described: Iterable[Message | Parameter]) -> None:
        inputs = [(each, each.mode, each.adapter) for each in described]
        self._schemas, shared = TypeAdapter.json_schemas(
            inputs, ref_template=REF, schema_generator=SchemaGenerator
        )
        self.definitions: dict[str, Any] = shared.get("$defs", {})

    def __getitem__(self, described: Message | Parameter) -> dict[str, Any]:
        """Return a schema; that of a model is a reference to its definition."""
        return self._schemas[described, described.mode]

    def examples(self, message: Message) -> list[Any]:
        """Return the valid examples of a message, declared or made up; there may be none."""
        if message.content_type != JSON:
            return message.examples
        schema = self[message]
        wanted = message.examples or self.resolved(message).get("examples", [])
        if not wanted:
            try:
                wanted = [example_of(schema, self.definitions)]
            except NoExampleError:
                wanted = []
        adapters = [message.adapter, message.declared or message.adapter]
        return [each for each in wanted if all(is_valid(each, adapter) for adapter in adapters)]

    def resolved(self, message: Message) -> dict[str, Any]:
        schema = self[message]
        name = schema.get("$ref", "").rpartition("/")[2]
        return self.definitions.get(name, schema)


def is_valid(example: Any, adapter: TypeAdapter[Any]) -> bool:
    """Return whether an example is valid for a type."""
    try:
        adapter.validate_json(to_json(example))
    except ValidationError:
        return False
    return True
