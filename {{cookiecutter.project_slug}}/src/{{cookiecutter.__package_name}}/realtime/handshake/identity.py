"""Who a client is."""

from typing import Any, NamedTuple, Protocol

from fastapi.requests import HTTPConnection

FAR_AWAY = 2**40
"""When a client without an expiry expires, in seconds since 1970."""


class Identity(NamedTuple):
    """A client's subject, until when it is valid in seconds since 1970, and all of its claims."""

    subject: str
    expires: float
    claims: dict[str, Any]


ANONYMOUS = Identity("", FAR_AWAY, {})


class Authenticator(Protocol):
    """Finds out who a client is."""

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """Subprotocols to choose for clients that offer their credentials as one."""
        ...

    async def identify(self, connection: HTTPConnection) -> Identity:
        """Return who sent a handshake or a request, or raise a 401; see `verify`."""
        ...

    async def verify(self, token: str) -> Identity:
        """Return what a valid token says, or raise a 401; whether it is revoked is not asked."""
        ...

    async def check_revoked(self, identity: Identity) -> None:
        """Raise a 401 for credentials that have been revoked."""
        ...
