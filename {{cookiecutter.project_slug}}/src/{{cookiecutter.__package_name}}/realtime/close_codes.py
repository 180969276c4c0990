"""Close codes: those of the engine, and those that an application may send."""

from enum import IntEnum

SENDABLE = frozenset({*range(1000, 1004), *range(1007, 1010), *range(1011, 1015)})
"""Registered close codes that a server may send (RFC 6455 §7.4.1 and the IANA registry)."""

MAX_REASON_BYTES = 123
"""Longest close reason that fits into a control frame (RFC 6455 §5.5)."""


class CloseCode(IntEnum):
    """Close codes that the engine sends or sees (RFC 6455 §7.4.1 and the IANA registry)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    ABNORMAL = 1006  # never sent: it stands for a lost connection
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    UNAUTHORIZED = 4401  # the token expired or was revoked


CAUSED_BY_CLIENT = frozenset(
    {
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.POLICY_VIOLATION,
        CloseCode.MESSAGE_TOO_BIG,
        CloseCode.TRY_AGAIN_LATER,
    }
)
"""Close codes caused by the client; logged as warnings."""

MEANINGS = {
    CloseCode.NORMAL: "The endpoint is done.",
    CloseCode.GOING_AWAY: "Idle for too long: reconnect when there is something to say.",
    CloseCode.PROTOCOL_ERROR: "A frame was not valid: a bug in the client.",
    CloseCode.UNSUPPORTED_DATA: "Text or binary where the other is expected: a bug in the client.",
    CloseCode.INVALID_DATA: "A text was not UTF-8: a bug in the client.",
    CloseCode.POLICY_VIOLATION: "Too many messages, or too many invalid ones: don't reconnect.",
    CloseCode.MESSAGE_TOO_BIG: "A message was too big: don't send it again.",
    CloseCode.INTERNAL_ERROR: "A bug in the server: reconnect later.",
    CloseCode.SERVICE_RESTART: "The server restarts: reconnect after a random delay.",
    CloseCode.TRY_AGAIN_LATER: "Overloaded, or this client reads too slowly: "
    "reconnect after a random delay.",
    CloseCode.UNAUTHORIZED: "The token expired or was revoked: get a new one, then reconnect.",
}
"""What the engine closes with a code for, and what a client should do then."""


def check_close(code: int, reason: str) -> tuple[int, str]:
    """Return a close code that may be sent, and its reason cut to what fits into the frame.

    Raises `ValueError` for a code that RFC 6455 §7.4 doesn't let an application send; its own
    codes are 4000 to 4999, and 3000 to 3999 are for registered libraries.
    """
    if code not in SENDABLE and not 3000 <= code < 5000:
        raise ValueError(f"close code {code} can't be sent; an application's own are 4000 to 4999")
    return code, reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
