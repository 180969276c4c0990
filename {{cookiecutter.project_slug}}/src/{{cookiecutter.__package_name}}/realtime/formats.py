"""JSON messages: decoding, encoding, and error frames."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

MAX_PATH = 200
"""Characters of a path in an error; its keys may be the client's own."""

T = TypeVar("T")


class ErrorCode(StrEnum):
    """Why a message was refused on a connection that stays open."""

    TEXT_EXPECTED = "text_expected"
    INVALID_JSON = "invalid_json"
    INVALID_SHAPE = "invalid_shape"
    RATE_LIMITED = "rate_limited"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    UNAVAILABLE = "unavailable"


DETAILS = {
    ErrorCode.TEXT_EXPECTED: "Send JSON as text, not as binary.",
    ErrorCode.INVALID_JSON: "This is not JSON.",
    ErrorCode.INVALID_SHAPE: "This is JSON of another shape than expected.",
    ErrorCode.RATE_LIMITED: "Too many messages; this one was ignored. See APP_MESSAGES_PER_SECOND.",
    ErrorCode.UNAUTHORIZED: "This is no valid token.",
    ErrorCode.FORBIDDEN: "You may not do this.",
    ErrorCode.UNAVAILABLE: "This can't be done now; try again later.",
}


class ErrorDetail(BaseModel):
    """Why a message was refused; `path` is where it first has the wrong shape."""

    code: str = Field(examples=[ErrorCode.INVALID_SHAPE])
    detail: str = Field(examples=[DETAILS[ErrorCode.INVALID_SHAPE]])
    path: str | None = Field(None, examples=["data.price"])


class ErrorFrame(BaseModel):
    """A message was refused; the connection stays open."""

    error: ErrorDetail


class InvalidMessage(Exception):
    """A message that can't be decoded, and where it first has the wrong shape, like `data.price`."""

    def __init__(self, code: ErrorCode, path: str = "") -> None:
        self.code = code
        self.path = path


class Format(Protocol):
    """How errors are written for a client."""

    def error(self, code: str, detail: str) -> str:
        """Return an error as a text message."""
        ...

    def reject(self, message: str | bytes, code: ErrorCode, path: str = "") -> str:
        """Return the error for a message; `path` is where it has the wrong shape."""
        ...


class JsonFormat:
    """Errors as `{"error": {"code": ..., "detail": ..., "path": ...}}`."""

    def error(self, code: str, detail: str) -> str:
        return dump_json({"error": {"code": code, "detail": detail}})

    def reject(self, message: str | bytes, code: ErrorCode, path: str = "") -> str:
        error = {"code": code, "detail": DETAILS[code]}
        return dump_json({"error": error | {"path": path} if path else error})


JSON = JsonFormat()


def decode_json(message: str | bytes, schema: TypeAdapter[T]) -> T:
    """Return the value of a JSON message, or raise `InvalidMessage`, which holds none of it."""
    if isinstance(message, bytes):
        raise InvalidMessage(ErrorCode.TEXT_EXPECTED)
    try:
        if "NaN" in message or "Infinity" in message:
            from_json(message, allow_inf_nan=False)  # validation alone accepts these
        return schema.validate_json(message)
    except ValidationError as error:
        raise _describe(error, message) from None
    except ValueError:
        raise InvalidMessage(ErrorCode.INVALID_JSON) from None


def dump_json(value: object) -> str:
    """Return `value`, which may hold pydantic models, as strict JSON (RFC 8259).

    A number too large for a double has no JSON form; as in JavaScript, it becomes `null`.
    """
    return dump_json_bytes(value).decode()


def dump_json_bytes(value: object) -> bytes:
    """Return `value` as strict JSON, like `dump_json`, in UTF-8."""
    return to_json(value, inf_nan_mode="null")


def _describe(error: ValidationError, message: str) -> InvalidMessage:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return InvalidMessage(ErrorCode.INVALID_JSON)
    path = [str(part) for part in _path_in(from_json(message), first)]
    return InvalidMessage(ErrorCode.INVALID_SHAPE, ".".join(path)[:MAX_PATH])


def _path_in(value: Any, error: ErrorDetails) -> Iterator[str | int]:
    """Yield the keys and indexes that lead to an error.

    pydantic also names the branches of unions, which a client knows nothing of.
    """
    location = error["loc"]
    for part in location:
        is_key = isinstance(value, dict) and part in value
        is_index = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if is_key or is_index:
            yield part
            value = value[part]
    if error["type"] == "missing":
        yield location[-1]
    elif error["type"].startswith("union_tag"):
        yield error["ctx"]["discriminator"].strip("'")
