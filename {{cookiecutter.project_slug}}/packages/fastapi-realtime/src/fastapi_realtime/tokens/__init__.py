"""JSON Web Tokens (RFC 7519): authentication of connections and requests."""

import time
from collections.abc import Awaitable, Callable, Mapping
from secrets import token_urlsafe
from typing import Annotated, Any, ClassVar

import jwt
from fastapi import Depends, HTTPException
from fastapi.requests import HTTPConnection
from pydantic import Field, SecretStr, ValidationInfo, field_validator

from ..handshake import FAR_AWAY, Identity
from ..realtime import Realtime, RealtimeDep
from ..settings import CommaSeparated, RealtimeSettings
from .keys import Algorithm, Clock, Key, KeySet, NoSecretError, prepare_key

__all__ = [
    "Identified",
    "TokenAuthenticator",
    "TokenError",
    "TokenSettings",
    "close_subject",
    "make_token",
    "new_secret",
]

MAX_SUBJECT = 255
"""Maximum length of a subject, in characters."""

IsRevoked = Callable[[dict[str, Any]], Awaitable[bool]]


class TokenSettings(RealtimeSettings):
    """How tokens are checked."""

    auth_algorithms: Annotated[tuple[Algorithm, ...], *CommaSeparated] = Field(
        ("HS256",), min_length=1
    )
    """Allowed signature algorithms, separated by commas; each needs a key."""

    auth_key: SecretStr = Field(SecretStr(""), validate_default=True)
    """Secrets or public keys (PEM) to verify tokens with, separated by commas.

    `file:<path>` reads a key or a JWKS from a file, `https://...` a JWKS from a URL.
    """

    @field_validator("auth_key")
    @classmethod
    def check_key(cls, key: SecretStr, info: ValidationInfo) -> SecretStr:
        """Refuse keys that are missing, weak, or for other algorithms; the error shows none."""
        if "auth_algorithms" in info.data:  # else they are invalid, which is reported already
            try:
                KeySet(key.get_secret_value(), info.data["auth_algorithms"])
            except NoSecretError as problem:
                command = f"uv run python -m {cls.__module__.partition('.')[0]} key"
                raise ValueError(f"{problem}; `{command}` prints a new one") from None
        return key

    auth_audience: str = ""
    """The required audience (`aud`) of tokens; if empty, tokens must have none."""

    def key_set(self, clock: Clock = time.monotonic) -> KeySet:
        """Return the keys to verify tokens with; reads those in files."""
        return KeySet(self.auth_key.get_secret_value(), self.auth_algorithms, clock)


class TokenAuthenticator:
    """Verifies the token of a handshake or a request."""

    # Browsers send their token as a subprotocol; another one must be selected for the response.
    subprotocols = ("v1",)
    security_schemes: ClassVar[dict[str, dict[str, Any]]] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "A JSON Web Token with `sub` and `exp`, from clients that can send it.",
        },
        "bearerSubprotocol": {
            "type": "httpApiKey",
            "in": "header",
            "name": "Sec-WebSocket-Protocol",
            "description": "The same as a subprotocol `bearer.<token>`, from browsers. They offer "
            "it together with another one to be chosen: `v1`, or one of the channel's own.",
        },
    }

    def __init__(
        self, settings: TokenSettings, is_revoked: IsRevoked, clock: Clock = time.monotonic
    ) -> None:
        """`is_revoked` is called with the claims of every token that is otherwise valid.

        `clock` returns monotonic seconds, for the age of a JWKS.
        """
        self._keys = settings.key_set(clock)
        self._audience = settings.auth_audience or None
        self._is_revoked = is_revoked

    async def identify(self, connection: HTTPConnection) -> Identity:
        """Return the identity in the token of a handshake or a request; raises like `verify`."""
        return await self.verify(find_token(connection))

    async def verify(self, token: str) -> Identity:
        """Return the identity in a token, or raise a 401 if it is invalid. Ignores revocation.

        Raises a 503 if keys could not be read yet, since the token may be valid.
        """
        try:
            claims = await self._keys.decode(token, self._audience)
            times = {type(claims[name]) for name in ("exp", "nbf", "iat") if name in claims}
            if not is_subject(claims["sub"]) or not times <= {int, float}:  # PyJWT takes strings
                raise ValueError
            if claims["exp"] <= time.time():  # without the leeway
                raise jwt.ExpiredSignatureError
        except (jwt.PyJWTError, KeyError, RecursionError, ValueError) as error:
            reason = REASONS.get(type(error), "a claim is missing or invalid")
            raise InvalidToken(reason if token else "no token") from None
        return Identity(claims["sub"], min(claims["exp"], FAR_AWAY), claims)

    async def check_revoked(self, identity: Identity) -> None:
        """Raise a 401 if the token has been revoked."""
        if await self._is_revoked(identity.claims):
            raise InvalidToken("revoked")


async def close_subject(realtime: Realtime, subject: str) -> int:
    """Close a subject's connections with 4401; return the number in this process.

    With rooms over Redis, other processes close theirs, too. Raises a 503 if they can't be
    notified; the connections of this process are closed all the same.
    """
    count = realtime.close_subject(subject)
    for service in realtime.services:
        await service.close_subject(subject)
    return count


async def identify(connection: HTTPConnection, realtime: RealtimeDep) -> Identity:
    """Dependency for HTTP routes: return the sender's identity, or raise a 401 (RFC 6750 §3).

    The 401 does not say what is wrong with the token. WebSocket routes use `Admitted` instead.
    """
    assert realtime.authenticator is not None
    identity = await realtime.authenticator.identify(connection)
    await realtime.authenticator.check_revoked(identity)
    return identity


Identified = Annotated[Identity, Depends(identify)]


class InvalidToken(HTTPException):
    """A 401, the same for every invalid token; the `reason` is for the log alone."""

    def __init__(self, reason: str) -> None:
        super().__init__(401, "no valid token", {"WWW-Authenticate": "Bearer"})
        self.reason = f"no valid token: {reason}"


REASONS: dict[type[Exception], str] = {
    jwt.DecodeError: "malformed",
    jwt.ExpiredSignatureError: "expired",
    jwt.ImmatureSignatureError: "not yet valid",
    jwt.InvalidAudienceError: "another audience",
    jwt.InvalidSignatureError: "wrong signature",
    jwt.InvalidKeyError: "unknown key",
}
"""Why a token is invalid, by what decoding it raises; else a claim is."""


def is_subject(name: str) -> bool:
    """Return whether a subject is 1 to `MAX_SUBJECT` printable characters."""
    return 0 < len(name) <= MAX_SUBJECT and name.isprintable()


def find_token(connection: HTTPConnection) -> str:
    """Return the token in `Authorization: Bearer` or in the subprotocol `bearer.<token>`.

    Returns an empty string for none, or for several. Browsers can't set headers, but they can
    offer subprotocols. Tokens in URLs are not supported: logs and browser histories keep URLs.
    """
    credentials = connection.headers.getlist("authorization")
    if len(credentials) > 1:
        return ""
    scheme, _, token = "".join(credentials).partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    offered: list[str] = connection.scope.get("subprotocols", [])
    tokens = [name.removeprefix("bearer.") for name in offered if name.startswith("bearer.")]
    return tokens[0] if len(tokens) == 1 else ""


def new_secret() -> str:
    """Return a random secret that is long enough for every algorithm."""
    return token_urlsafe(64)


class TokenError(ValueError):
    """A token can't be created; the text says why."""


def make_token(
    subject: str,
    seconds: float,
    settings: TokenSettings,
    private_key: str | None = None,
    claims: Mapping[str, Any] = {},
) -> str:
    """Return a token for development, signed with the first secret or a private key (PEM).

    It is valid for `seconds`. `claims` can't include `sub`, `exp` or `aud`. Raises `TokenError`.
    """
    if not is_subject(subject):
        raise TokenError(f"a subject has 1 to {MAX_SUBJECT} printable characters")
    if not claims.keys().isdisjoint(("sub", "exp", "aud")):
        raise TokenError("claims can't set sub, exp or aud")
    try:
        key = signing_key(settings, private_key)
        audience = {"aud": settings.auth_audience} if settings.auth_audience else {}
        all_claims = {**claims, **audience, "sub": subject, "exp": int(time.time() + seconds)}
        return jwt.encode(all_claims, key.value, key.algorithms[0])
    except (OverflowError, TypeError, ValueError, jwt.PyJWTError) as error:
        raise TokenError(str(error)) from None


def signing_key(settings: TokenSettings, private_key: str | None) -> Key:
    """Return the private key, or the first secret of the settings; raises `ValueError`."""
    if private_key is not None and "PUBLIC KEY" not in private_key:
        return prepare_key(lambda algorithm: private_key, settings.auth_algorithms)
    secrets = [key for key in settings.key_set().keys if isinstance(key.value, bytes)]
    if private_key is not None or not secrets:
        raise ValueError("a public key signs nothing; give the private one with --key")
    return secrets[0]
