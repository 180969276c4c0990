"""What an endpoint says besides its answers: close codes and error frames."""

from enum import IntEnum, StrEnum

from pydantic_core import to_json

SENDABLE = frozenset({*range(1000, 1004), *range(1007, 1015)})
"""Registered close codes that an endpoint may send (RFC 6455 §7.4.1 and the IANA registry)."""


class CloseCode(IntEnum):
    """Close codes that this package sends (RFC 6455 §7.4.1 and the IANA registry)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    UNSUPPORTED_DATA = 1003
    ABNORMAL = 1006  # never sent: the connection was lost
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
{% if cookiecutter.auth == "jwt" %}
    UNAUTHORIZED = 4401
{% endif %}


CAUSED_BY_CLIENT = frozenset(
    {
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.POLICY_VIOLATION,
        CloseCode.MESSAGE_TOO_BIG,
        CloseCode.TRY_AGAIN_LATER,
    }
)
"""Close codes caused by the client; logged as warnings."""

MAX_REASON_BYTES = 123
"""Longest close reason that fits into a control frame (RFC 6455 §5.5)."""


def check_close(code: int, reason: str) -> tuple[int, str]:
    """Return a close code that may be sent, and its reason cut to what fits into the frame.

    Raises `ValueError` for a code that RFC 6455 §7.4 doesn't let an application send; its own
    codes are 4000 to 4999, and 3000 to 3999 are for registered libraries.
    """
    if code not in SENDABLE and not 3000 <= code < 5000:
        raise ValueError(f"close code {code} can't be sent; an application's own are 4000 to 4999")
    return code, reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


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


def error_json(code: ErrorCode, path: str = "") -> str:
    """Return an error as JSON: `{"error": {"code": ..., "detail": ...}}`.

    `path` names where a message has the wrong shape, like `data.price`.
    """
    error = {"code": code, "detail": DETAILS[code]}
    return dump_json({"error": error | {"path": path} if path else error})


def dump_json(value: object) -> str:
    """Return `value`, which may hold pydantic models, as strict JSON (RFC 8259).

    A number too large for a double has no JSON form; as in JavaScript, it becomes `null`.
    """
    return to_json(value, inf_nan_mode="null").decode()
