"""Keys to verify tokens with: parsing, algorithms, strength."""

import json
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, Literal

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from jwt.algorithms import Algorithm as AlgorithmMethods

Algorithm = Literal[
    "HS256",
    "HS384",
    "HS512",
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
]
"""Signature algorithms (RFC 7518 §3.1, RFC 8037)."""

MAX_KEY_BYTES = 65_536
EXAMPLES = (b"change", b"example", b"secret", b"password", b"at-least", b"your-", b"12345")
"""Parts of example secrets in documentation; a secret with one of them is rejected."""
NOT_A_KEY = (jwt.PyJWTError, KeyError, TypeError, ValueError, UnsupportedAlgorithm)
"""Exceptions of PyJWT for a key of another type."""


class NoSecretError(ValueError):
    """There is no key, or one that anybody could guess."""


@dataclass(frozen=True)
class Key:
    """A parsed key, its algorithms, and its `kid` if it has one."""

    value: Any = field(repr=False)
    algorithms: tuple[str, ...]
    kid: object = None

    @property
    def is_secret(self) -> bool:
        """Whether it is a shared secret; else it is a public key."""
        return isinstance(self.value, bytes)


def check_key(text: str, algorithms: Sequence[str]) -> Key:
    """Return a secret or a public key (PEM), or raise a `ValueError` that says what is wrong."""
    if not text:
        raise NoSecretError("it is empty")
    if "PRIVATE KEY" in text:
        raise ValueError("this is a private key; the server needs the public one")
    return prepare_key(lambda algorithm: text, algorithms)


def prepare_key(load: Callable[[str], Any], algorithms: Sequence[str], kid: object = None) -> Key:
    """Return a key for those of the algorithms that fit its type.

    A public key is never used as a secret, whatever `alg` a token has. `load` returns the key
    for the name of an algorithm. Raises a `ValueError` if it is too weak, or fits none of them.
    """
    fitting: dict[str, Any] = {}
    for name in algorithms:
        algorithm = jwt.get_algorithm_by_name(name)
        try:
            fitting[name] = algorithm.prepare_key(load(name))
        except NOT_A_KEY:
            continue
        check_strength(fitting[name], algorithm)
    if not fitting:
        names = ", ".join(algorithms)
        raise ValueError(f"this is not a key for {names} of APP_AUTH_ALGORITHMS")
    return Key(next(iter(fitting.values())), tuple(fitting), kid)


def check_strength(key: Any, algorithm: AlgorithmMethods) -> None:
    """Raise a `ValueError` for a weak key.

    A secret must be as long as its hash, an RSA key must have 2048 bits (RFC 7518 §3).
    """
    if isinstance(key, bytes) and (
        len(set(key)) < 10 or any(word in key.lower() for word in EXAMPLES)
    ):
        raise NoSecretError("this looks like an example")
    if problem := algorithm.check_key_length(key):
        raise ValueError(problem)


def read_key_file(path: Path) -> str:
    """Return the text of a key file; raises `ValueError` if it is too large, or a device or pipe."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("the file of the key is not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_KEY_BYTES + 1)
    if len(content) > MAX_KEY_BYTES:
        raise ValueError(f"the file of the key has more than {MAX_KEY_BYTES} bytes")
    return content.decode("utf-8-sig").strip()


def new_secret() -> str:
    """Return a random secret that is long enough for every algorithm."""
    return token_urlsafe(64)


PRIVATE_PARTS = {"d", "p", "q", "dp", "dq", "qi", "oth"}

Loaded = tuple[list[Key], list[str]]
"""The usable keys, and for each other entry the reason why it is not."""


def parse_jwks(text: str, algorithms: Sequence[str]) -> Loaded:
    """Return the usable keys, and for each other entry the reason why it is not.

    Raises a `ValueError` if the text is not a JWKS (RFC 7517 §5).
    """
    try:
        document = json.loads(text)
    except (RecursionError, ValueError):
        document = None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError('this is not a JWKS, which looks like {"keys": [...]}')
    keys, left_out = [], []
    for number, entry in enumerate(entries, 1):
        try:
            keys.append(key_of(entry, algorithms))
        except ValueError as problem:
            left_out.append(f"key {number}: {problem}")
    return keys, left_out


def key_of(entry: Any, algorithms: Sequence[str]) -> Key:
    """Return the key of a JWKS entry (RFC 7517 §4), or raise a `ValueError`."""
    if not isinstance(entry, dict):
        raise ValueError("this is not a JSON object")
    if entry.get("use", "sig") != "sig":
        raise ValueError("this is not for signatures")
    if PRIVATE_PARTS & entry.keys():
        raise ValueError("this is a private key")
    names = [name for name in algorithms if entry.get("alg", name) == name]
    if not names:
        raise ValueError("its algorithm is not in APP_AUTH_ALGORITHMS")
    return prepare_key(lambda name: jwt.PyJWK(entry, name).key, names, entry.get("kid"))
