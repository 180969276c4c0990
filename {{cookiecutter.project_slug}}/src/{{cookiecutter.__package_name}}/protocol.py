"""What an endpoint says besides its answers: close codes and error frames."""

from enum import IntEnum, StrEnum

from pydantic_core import to_json


class CloseCode(IntEnum):
    """Close codes to send (RFC 6455 §7.4.1 and the IANA registry)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    UNSUPPORTED_DATA = 1003
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
{% if cookiecutter.auth == "jwt" %}
    UNAUTHORIZED = 4401
{% endif %}


POLICY = frozenset(
    {
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.POLICY_VIOLATION,
        CloseCode.MESSAGE_TOO_BIG,
        CloseCode.TRY_AGAIN_LATER,
    }
)
"""What the peer has brought upon itself, and an operator may want to see."""


class ErrorCode(StrEnum):
    """What can be wrong with a message that its connection survives."""

    TEXT_EXPECTED = "text_expected"
    INVALID_JSON = "invalid_json"
    INVALID_SHAPE = "invalid_shape"
    RATE_LIMITED = "rate_limited"


DETAILS = {
    ErrorCode.TEXT_EXPECTED: "Send JSON as text, not as binary.",
    ErrorCode.INVALID_JSON: "This is not JSON.",
    ErrorCode.INVALID_SHAPE: "This is JSON of another shape than expected.",
    ErrorCode.RATE_LIMITED: "Too many messages. This one was ignored; wait a moment.",
}


def error_frame(code: ErrorCode) -> str:
    """Return an error as JSON: `{"error": {"code": ..., "detail": ...}}`."""
    return dump_json({"error": {"code": code, "detail": DETAILS[code]}})


def dump_json(value: object) -> str:
    """Return `value`, which may hold pydantic models, as strict JSON (RFC 8259).

    A number too large for a double has no JSON form; as in JavaScript, it becomes `null`.
    """
    return to_json(value, inf_nan_mode="null").decode()
