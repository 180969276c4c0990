"""Settings of the engine, read from the environment and `.env`."""

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from io import StringIO
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from dotenv.parser import parse_stream
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from .handshake import normal_origin

S = TypeVar("S", bound=BaseSettings)

MIN_SIMILARITY = 0.75
"""Similarity to a setting's name, 0 to 1, from which a variable counts as misspelt."""
COMMON_WORDS = frozenset(
    "auth bytes demo env file format host ip key level limit log max message name per port prefix"
    " second seconds timeout url workers".split()
)
"""Words in names of settings that other programs use, too: `APP_KEY`, `APP_SERVICE_PORT`."""
KUBERNETES_PORT = (
    'Kubernetes sets this for a Service named "app"; set enableServiceLinks: false in the '
    "pod, rename the Service, or set APP_PORT in the container"
)


class SettingsError(ValueError):
    """Raised for invalid settings; the message has a line for each."""


def without_empty(
    variables: Mapping[str, str | None], fields: Mapping[str, FieldInfo]
) -> dict[str, str | None]:
    """Remove empty variables, so that the default applies; a `str` setting may be empty."""
    texts = {f"app_{name}" for name, field in fields.items() if field.annotation is str}
    return {k: v for k, v in variables.items() if v or (v is not None and k in texts)}


def misspelt(
    variables: Mapping[str, str | None], fields: Mapping[str, FieldInfo]
) -> dict[str, Any]:
    """Return variables that mean a setting; others belong to other programs."""
    names = [name.removeprefix("app_") for name in variables if name.startswith("app_")]
    return {name: "" for name in names if name not in fields and meant(name, fields)}


def meant(name: str, fields: Mapping[str, FieldInfo]) -> str:
    """Return the setting that an unknown name means, or an empty text.

    Its name is similar, or has all the words of the other and not only common ones.
    """
    if similar := get_close_matches(name, fields, 1, MIN_SIMILARITY):
        return similar[0]
    words = set(name.split("_"))
    for field in fields:
        others = set(field.split("_"))
        if (words <= others or others <= words) and not words & others <= COMMON_WORDS:
            return field
    return ""


def load_settings(kind: type[S]) -> S:
    """Read settings from the environment and `.env`; raises `SettingsError`."""
    try:
        _check_file(Path(".env"))
        return kind()
    except ValidationError as failure:
        lines = [_explain(error, kind.model_fields) for error in failure.errors(include_url=False)]
        raise SettingsError("\n".join(["These settings do not work:", *lines])) from None
    except UnicodeDecodeError:
        raise SettingsError("The file .env is not UTF-8.") from None
    except OSError as error:
        raise SettingsError(f"The file .env can't be read: {error.strerror}.") from None


def _check_file(path: Path) -> None:
    """Raise `SettingsError` for an invalid line of `.env`; python-dotenv would skip it."""
    lines = parse_stream(StringIO(path.read_text("utf-8"))) if os.path.lexists(path) else ()
    for line in lines:
        has_no_value = line.key is not None and line.key.startswith("APP_") and line.value is None
        if line.error or has_no_value:
            raise SettingsError(f"Line {line.original.line} of .env is not NAME=value.")


def _explain(error: ErrorDetails, fields: Mapping[str, FieldInfo]) -> str:
    rule = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # a rule for several settings; its message names them
        return f"  {rule}"
    field = str(error["loc"][0])
    name = f"APP_{field.upper()}"
    if error["type"] == "extra_forbidden":
        nearest = meant(field, fields) or get_close_matches(field, fields, 1, 0)[0]
        return f"  {name}: there is no such setting; the nearest is APP_{nearest.upper()}"
    if fields[field].annotation is SecretStr:
        return f"  {name}: {rule}"
    if field == "port" and error["input"] == os.environ.get("PORT"):
        name = "APP_PORT or PORT"
    if field == "port" and re.match("[a-z]+://", str(error["input"])):
        rule = KUBERNETES_PORT
    return f"  {name}={error['input']!r}: {rule}"


DEFAULT_HOST = "127.0.0.1"


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [item.strip() for item in value.split(",") if item.strip()]


def _check_origin(text: str) -> str:
    origin = text if text == "*" else normal_origin(text)
    if origin is None:
        raise ValueError(
            "an origin looks like https://chat.example.com or http://localhost:5173; "
            "only * allows pages opened from a file"
        )
    return origin


def _check_proxy(text: str) -> str:
    try:
        if text != "*":
            ip_network(text)
    except ValueError:
        raise ValueError("a proxy looks like 10.0.0.5, or its network like 10.0.0.0/8") from None
    return text


Host = Annotated[str, AfterValidator(lambda host: host or DEFAULT_HOST)]
Origin = Annotated[str, AfterValidator(_check_origin)]
Proxy = Annotated[str, AfterValidator(_check_proxy)]
CommaSeparated = (NoDecode, BeforeValidator(_split))


class RealtimeSettings(BaseSettings):
    """Settings; each is read from the variable `APP_<NAME>`, or from `.env`."""

    model_config = SettingsConfigDict(
        env_prefix="APP_",
        env_file=".env",
        dotenv_filtering="match_prefix",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    @property
    def application(self) -> str:
        """The application's package: the prefix of its loggers and of its keys in Redis."""
        return type(self).__module__.partition(".")[0]

    host: Host = DEFAULT_HOST
    """Address to listen on; `0.0.0.0` means all networks."""

    port: int = Field(8000, ge=0, le=65535)
    """TCP port to listen on, by default that in the variable `PORT`; 0 means any free port."""

    workers: int = Field(1, ge=1)
    """Number of processes that share the port."""

    allowed_origins: Annotated[tuple[Origin, ...], *CommaSeparated] = ()
    """Origins allowed besides the server's own, comma-separated; `*`: all. Others get 403."""

    require_origin: bool = False
    """Reject clients that send no origin with 403; only browsers send one."""

    trusted_proxies: Annotated[tuple[Proxy, ...], *CommaSeparated] = ("127.0.0.1", "::1")
    """Proxies or networks whose `X-Forwarded-*` headers are used, comma-separated; `*`: all."""

    max_connections: int = Field(10_000, ge=1)
    """Maximum connections per process; above, handshakes get 503."""

    max_connections_per_ip: int = Field(500, ge=1)
    """Maximum connections per process from an address or IPv6 /64; above, handshakes get 429."""

    max_message_bytes: int = Field(65_536, ge=1)
    """Maximum bytes of a message from a client; a longer one closes with 1009."""

    messages_per_second: float = Field(50, gt=0)
    """Messages per second per connection, sustained; the excess gets an error. `inf`: no limit.

    A message counts once more for every 8 KiB.
    """

    message_burst: int = Field(100, ge=1)
    """Messages a connection may send at once; after as many rejected ones, the next gets 1008."""

    max_invalid_messages: int = Field(10, ge=0)
    """Invalid messages in a row that get an error; one more closes with 1008."""

    idle_timeout: float = Field(3600, gt=0)
    """Seconds without a message in or out; then the connection gets 1001. `inf`: no limit."""

    drain_seconds: int = Field(10, ge=1)
    """Seconds to close all connections with 1012 when the server stops; then they are dropped."""

    log_format: Literal["text", "json"] = "text"
    """Format of the log: `text`, or `json` with an object per line."""

    shared_env_file: bool = False
    """Ignore unknown `APP_*` variables in `.env`, which is shared with other programs."""

    def check_services(self) -> None:
        """Raise `SettingsError` if a service that these settings name answers that they are wrong.

        A service that can't be reached is no error: it may be there later.
        """

    @field_validator("*")
    @classmethod
    def check_encoding(cls, value: Any) -> Any:
        """Reject text that is not UTF-8; environment variables can contain any bytes."""
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            raise ValueError("it is not UTF-8")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add misspelt environment variables, so that they are rejected like those in `.env`."""
        fields = settings_cls.model_fields
        assert isinstance(env_settings, EnvSettingsSource)
        assert isinstance(dotenv_settings, EnvSettingsSource)
        environment = without_empty(env_settings.env_vars, fields)
        file = without_empty(dotenv_settings.env_vars, fields)
        unknown = misspelt(environment, fields)
        is_shared = str((file | environment).get("app_shared_env_file")).lower()
        if is_shared in ("1", "true", "t", "yes", "y", "on"):  # as pydantic reads a `bool`
            unknown |= misspelt(file, fields)
            file = {name: file[name] for name in file if name.removeprefix("app_") in fields}
        env_settings.env_vars, dotenv_settings.env_vars = environment, file
        port = os.environ.get("PORT")  # as hosts of containers set it
        return (
            init_settings,
            env_settings,
            dotenv_settings,
            InitSettingsSource(settings_cls, unknown | ({"port": port} if port else {})),
        )


class RoomSettings(RealtimeSettings):
    """Settings of an application with rooms."""

    max_backlog_bytes: int = Field(1_048_576, ge=1)
    """Bytes that a member may leave unread; above, it gets 1013."""

    max_pending_bytes: int = Field(268_435_456, ge=1)
    """Bytes that all members of a process may leave unread; above, those with most get 1013."""

    presence_limit: int = Field(100, ge=0)
    """Connections up to which a room names its members; above, it sends counts. 0: neither."""

    joins_per_second_per_ip: float = Field(50, gt=0)
    """Joins per second per address, and ten times as many at once; above, 429. `inf`: no limit."""

    max_rooms_per_connection: int = Field(50, ge=1)
    """Rooms that a client may join with one connection; above, `too_many_rooms`."""

    history_length: int = Field(100, ge=0)
    """Messages kept per room for members that reconnect; if more are missing, they get a `gap`."""

    several_workers_need: ClassVar[str] = "a broker that reaches other processes"
    """What the error about `APP_WORKERS` recommends."""

    @property
    def is_in_memory(self) -> bool:
        """Whether rooms are in the memory of a single process."""
        return True

    @model_validator(mode="after")
    def check_workers(self) -> Self:
        """Reject several workers if rooms are in memory."""
        if self.workers > 1 and self.is_in_memory:
            raise ValueError(
                f"APP_WORKERS={self.workers}: these rooms are in the memory of one process; "
                f"set it to 1, or use {self.several_workers_need}"
            )
        return self
