"""Settings of rooms over Redis."""

import re
from inspect import signature
from typing import ClassVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr, field_validator
from redis.asyncio.connection import URL_QUERY_ARGUMENT_PARSERS, SSLConnection
from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.exceptions import RedisError
from redis.retry import Retry

from ...settings import RoomSettings, SettingsError
from .connection import FORCED, Link

MEMORY = "memory://"
CHECK_SECONDS = 1.0
"""Seconds to wait for Redis before the server starts without it."""
NO_DATABASE = (
    "These settings do not work:\n  APP_BROKER_URL: Redis answers that it has no database {}; "
    "the highest is one less than its own setting `databases`, which is 16 by default"
)
URL_FORM = (
    "a broker is redis://[[user]:password@]host[:port][/database], the same with rediss:// (TLS), "
    "unix:///path/of.sock, or memory://"
)
OPTIONS = {*URL_QUERY_ARGUMENT_PARSERS}.union(
    *(signature(each).parameters for each in SSLConnection.__mro__)
)
"""Names of options that redis-py knows, if not for every kind of connection."""


class RedisSettings(RoomSettings):
    """Settings of an application that can use Redis."""

    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """`redis://`, `rediss://` or `unix://` URL of Redis, or `memory://` for a single process."""

    several_workers_need: ClassVar[str] = "another APP_BROKER_URL than memory://"

    @property
    def is_in_memory(self) -> bool:
        """Whether rooms are in the memory of a single process."""
        return self.broker_url.get_secret_value() == MEMORY

    def check_services(self) -> None:
        """Raise `SettingsError` if Redis answers that it doesn't have the database in the URL."""
        if self.is_in_memory:
            return
        options = parse_url(self.broker_url.get_secret_value()) | FORCED
        options |= {"socket_timeout": CHECK_SECONDS, "socket_connect_timeout": CHECK_SECONDS}
        options["retry"] = Retry(NoBackoff(), 0)
        connection = options.pop("connection_class", Connection)(**options)
        try:
            connection.connect()
        except RedisError as error:
            if "DB index" in str(error):
                raise SettingsError(NO_DATABASE.format(options["db"])) from None
        finally:
            connection.disconnect()

    @field_validator("broker_url")
    @classmethod
    def check_broker_url(cls, value: SecretStr) -> SecretStr:
        """Reject an invalid URL; see `check_url`."""
        url = value.get_secret_value()
        if url != MEMORY:
            check_url(url)
        return value


def check_url(url: str) -> None:
    """Raise `ValueError` for a URL that redis-py rejects, or of which it would ignore a part.

    The error shows nothing of it but options that exist: anything else may be a password.
    """
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True)
        plain = urlunsplit(parts._replace(query="", fragment=""))
        is_socket = parts.scheme == "unix"
        is_ignored = parts.port == 0 or (is_socket and bool(parts.hostname))
    except Exception:
        raise ValueError(URL_FORM) from None
    if is_ignored or "#" in url or not is_accepted(plain):
        raise ValueError(URL_FORM)
    names = [name for name, _ in options]
    if not is_socket and not re.fullmatch(r"/?|/[0-9]+", parts.path):
        raise ValueError("the database must be a number, as in redis://host/0")
    if len({*names}) < len(names) or ("db" in names and parts.path.strip("/") and not is_socket):
        raise ValueError("an option, or the database, is there twice")
    if all(value for _, value in options) and is_accepted(url):
        return
    wrong = next(
        (
            name
            for name, value in options
            if not value or not is_accepted(f"{plain}?{urlencode({name: value})}")
        ),
        "",
    )
    which = f"the option {wrong}" if wrong in OPTIONS else "an option"
    raise ValueError(f"{which} does not exist here, or has a wrong value")


def is_accepted(url: str) -> bool:
    """Return whether redis-py accepts a URL."""
    try:
        Link(url)
    except Exception:
        return False
    return True
