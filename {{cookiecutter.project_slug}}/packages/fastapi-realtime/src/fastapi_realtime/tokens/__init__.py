"""JSON Web Tokens: authentication of connections and requests."""

from .keys import new_secret
from .tokens import (
    Identified,
    TokenAuthenticator,
    TokenError,
    TokenSettings,
    close_subject,
    make_token,
)

__all__ = [
    "Identified",
    "TokenAuthenticator",
    "TokenError",
    "TokenSettings",
    "close_subject",
    "make_token",
    "new_secret",
]
