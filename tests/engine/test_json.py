"""Decoding and encoding of JSON messages, and error frames."""

import json
from math import inf, nan
from typing import Annotated, Literal

import pytest
from fastapi_realtime.messages import (
    DETAILS,
    MAX_PATH,
    ErrorCode,
    InvalidMessage,
    JsonFormat,
    decode_json,
    dump_json,
)
from pydantic import BaseModel, Field, JsonValue, TypeAdapter


class Point(BaseModel):
    """What messages are expected to be."""

    x: int
    y: int


POINTS = TypeAdapter(Point)


def refusal_of(message: str | bytes) -> InvalidMessage:
    """Return why a message is refused."""
    with pytest.raises(InvalidMessage) as refused:
        decode_json(message, POINTS)
    return refused.value


def test_valid_message_is_decoded() -> None:
    assert decode_json('{"x":1,"y":2}', POINTS) == Point(x=1, y=2)


@pytest.mark.parametrize("number", ["1e308", "-1E+308", "1e-400", "0e999", "9" * 310])
def test_numbers_that_a_double_or_an_integer_can_hold_are_accepted(number: str) -> None:
    value = decode_json(f'{{"1e999": [{number}]}}', TypeAdapter(JsonValue))
    assert json.loads(dump_json(value)) == {"1e999": [json.loads(number)]}


@pytest.mark.parametrize("text", ["NaN", "to Infinity", "1e999", "9" * 400])
def test_string_may_contain_what_no_number_may(text: str) -> None:
    assert decode_json(json.dumps(text), TypeAdapter(str)) == text


@pytest.mark.parametrize(
    ("message", "code", "path"),
    [
        ("{", ErrorCode.INVALID_JSON, ""),
        ("", ErrorCode.INVALID_JSON, ""),
        ('{"x":NaN,"y":1}', ErrorCode.INVALID_JSON, ""),
        ('{"x":Infinity,"y":1}', ErrorCode.INVALID_JSON, ""),
        ('{"x":1e309,"y":1}', ErrorCode.INVALID_JSON, ""),
        ('{"x":1,"y":1,"z":[{"a":-1E+0400}]}', ErrorCode.INVALID_JSON, ""),
        ('{"x":1,"y":%s.0}' % ("9" * 310), ErrorCode.INVALID_JSON, ""),
        ('{"x":1,"y":1%se99}' % ("0" * 210), ErrorCode.INVALID_JSON, ""),
        ("[" * 1000, ErrorCode.INVALID_JSON, ""),
        ("null", ErrorCode.INVALID_SHAPE, ""),
        ('{"x":1}', ErrorCode.INVALID_SHAPE, "y"),
        ('{"x":1,"y":[1,2]}', ErrorCode.INVALID_SHAPE, "y"),
        (b'{"x":1,"y":2}', ErrorCode.TEXT_EXPECTED, ""),
    ],
)
def test_invalid_message_is_refused_with_a_code_and_a_path(
    message: str | bytes, code: ErrorCode, path: str
) -> None:
    refused = refusal_of(message)
    assert (refused.code, refused.path) == (code, path)


@pytest.mark.parametrize("message", ['{"x":"secret","y":1}', '{"secret"', '["secret",NaN]'])
def test_refusal_holds_nothing_of_the_message(message: str) -> None:
    refused = refusal_of(message)
    assert "secret" not in f"{refused!r} {vars(refused)}"
    assert refused.__suppress_context__


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ("{}", "type"),
        ('{"type":"c"}', "type"),
        ('{"type":"a"}', "x"),
        ('{"type":"a","x":"one"}', "x"),
        ('{"type":"b","points":[{"x":1,"y":2},{"x":1}]}', "points.1.y"),
        ('{"type":"b","points":[1]}', "points.0"),
        ("[]", ""),
    ],
)
def test_path_is_that_of_the_message_in_a_union_too(message: str, path: str) -> None:
    class A(BaseModel):
        type: Literal["a"]
        x: int

    class B(BaseModel):
        type: Literal["b"]
        points: list[Point]

    union: TypeAdapter[A | B] = TypeAdapter(Annotated[A | B, Field(discriminator="type")])
    with pytest.raises(InvalidMessage) as refused:
        decode_json(message, union)
    assert refused.value.path == path


def test_long_path_is_shortened() -> None:
    schema = TypeAdapter(dict[str, dict[str, int]])
    with pytest.raises(InvalidMessage) as refused:
        decode_json(json.dumps({"data": {"x" * 1000: "no"}}), schema)
    assert refused.value.code == ErrorCode.INVALID_SHAPE
    assert refused.value.path.startswith("data.xxx")
    assert len(refused.value.path) == MAX_PATH == 200


@pytest.mark.parametrize("code", ErrorCode)
def test_error_has_a_code_and_a_detail_and_a_path_if_there_is_one(code: ErrorCode) -> None:
    error = {"code": code.value, "detail": DETAILS[code]}
    assert json.loads(JsonFormat().reject("", code)) == {"error": error}
    assert json.loads(JsonFormat().reject("", code, "x.0")) == {"error": error | {"path": "x.0"}}


@pytest.mark.parametrize("number", [nan, inf, -inf])
def test_number_without_a_json_form_becomes_null(number: float) -> None:
    assert dump_json({"x": [number, 1.5]}) == '{"x":[null,1.5]}'


def test_models_are_encoded() -> None:
    assert dump_json({"point": Point(x=1, y=2)}) == '{"point":{"x":1,"y":2}}'
