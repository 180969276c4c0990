"""Settings of the engine, and reading them."""

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

from .origin import normal_origin

S = TypeVar("S", bound=BaseSettings)

SIMILAR = 0.75
"""How similar a variable must be to a setting's name to be taken for it, misspelt (0 to 1)."""
KUBERNETES_PORT = (
    'Kubernetes sets this for a Service named "app"; set enableServiceLinks: false in the '
    "pod, rename the Service, or set APP_PORT in the container"
)


class SettingsError(ValueError):
    """Settings that do not work; the message has a line for each."""


def without_empty(
    variables: Mapping[str, str | None], fields: Mapping[str, FieldInfo]
) -> dict[str, str | None]:
    """Leave out empty variables, which mean the default, unless the setting is a text."""
    texts = {f"app_{name}" for name, field in fields.items() if field.annotation is str}
    return {
        name: value
        for name, value in variables.items()
        if value or (value is not None and name in texts)
    }


def misspelt(
    variables: Mapping[str, str | None], fields: Mapping[str, FieldInfo]
) -> dict[str, Any]:
    """Return variables nearly named like a setting; others belong to other programs."""
    names = [name.removeprefix("app_") for name in variables if name.startswith("app_")]
    return {
        name: ""
        for name in names
        if name not in fields and get_close_matches(name, fields, 1, SIMILAR)
    }


def load_settings(kind: type[S]) -> S:
    """Read settings from the environment and `.env`, or raise `SettingsError`."""
    try:
        _check_file(Path(".env"))
        return kind()
    except ValidationError as failure:
        lines = [_explain(error, kind.model_fields) for error in failure.errors(include_url=False)]
        raise SettingsError("\n".join(["These settings do not work:", *lines])) from None
    except UnicodeDecodeError:
        raise SettingsError("The file .env is not UTF-8.") from None


def _check_file(path: Path) -> None:
    """Refuse a file with a line that can't be read; dotenv would leave it out."""
    lines = parse_stream(StringIO(path.read_text("utf-8"))) if path.is_file() else ()
    for line in lines:
        has_no_value = line.key is not None and line.key.startswith("APP_") and line.value is None
        if line.error or has_no_value:
            raise SettingsError(f"Line {line.original.line} of .env is not NAME=value.")


def _explain(error: ErrorDetails, fields: Mapping[str, FieldInfo]) -> str:
    rule = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # a rule for several settings, which names them itself
        return f"  {rule}"
    field = str(error["loc"][0])
    name = f"APP_{field.upper()}"
    if error["type"] == "extra_forbidden":
        (nearest,) = get_close_matches(field, fields, 1, 0)
        return f"  {name}: there is no such setting; the nearest is APP_{nearest.upper()}"
    if fields[field].annotation is SecretStr:
        return f"  {name}: {rule}"
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
        raise ValueError("an origin looks like https://chat.example.com or http://localhost:5173")
    return origin


def _check_proxy(text: str) -> str:
    if text == "*":
        return text
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError("a proxy looks like 10.0.0.5, or its network like 10.0.0.0/8") from None
    return str(network if "/" in text else network.network_address)


Host = Annotated[str, AfterValidator(lambda host: host or DEFAULT_HOST)]
Origin = Annotated[str, AfterValidator(_check_origin)]
Proxy = Annotated[str, AfterValidator(_check_proxy)]
CommaSeparated = (NoDecode, BeforeValidator(_split))


class RealtimeSettings(BaseSettings):
    """Settings, each read from the variable `APP_<NAME>`, or from the same line in `.env`."""

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
        """The package that the settings belong to: prefix of its loggers and of its keys in Redis."""
        return type(self).__module__.partition(".")[0]

    host: Host = DEFAULT_HOST
    """Address to listen on; `0.0.0.0` is every network of this machine."""

    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""

    workers: int = Field(1, ge=1)
    """Processes that share the port."""

    allowed_origins: Annotated[tuple[Origin, ...], *CommaSeparated] = ()
    """Origins whose pages may connect, besides our own, separated by commas; `*` is any."""

    require_origin: bool = False
    """Refuse clients that send no origin, that is, everything but browsers."""

    trusted_proxies: Annotated[tuple[Proxy, ...], *CommaSeparated] = ("127.0.0.1", "::1")
    """Proxies, or their networks, whose `X-Forwarded-*` headers count, by commas; `*` is any."""

    max_connections: int = Field(10_000, ge=1)
    """Connections of one process; one more is refused with 503."""

    max_connections_per_ip: int = Field(500, ge=1)
    """Connections from one address, or one IPv6 /64; one more is refused with 429."""

    max_message_bytes: int = Field(65_536, ge=1)
    """Longest message a client may send, in bytes; a longer one closes with 1009."""

    messages_per_second: float = Field(50, gt=0)
    """Sustained messages per second of one client; the excess is refused; `inf` is no limit."""

    message_burst: int = Field(100, ge=1)
    """Messages that a client may send at once; as many refused ones close with 1008."""

    max_invalid_messages: int = Field(10, ge=0)
    """Invalid messages in a row that are answered with an error; one more closes with 1008."""

    idle_timeout: float = Field(3600, gt=0)
    """Seconds without a message in either direction, then 1001; `inf` is no limit."""

    drain_seconds: int = Field(10, ge=1)
    """Seconds in which open connections are closed, with 1012, when the server stops."""

    log_format: Literal["text", "json"] = "text"
    """How the log is written: for people, or one JSON object a line."""

    @field_validator("*")
    @classmethod
    def check_encoding(cls, value: Any) -> Any:
        """Refuse text that is not UTF-8; the environment may hold any bytes."""
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError("it is not UTF-8") from None
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
        """Add misspelt names of the environment, so that they are refused like those in `.env`."""
        fields = settings_cls.model_fields
        unknown: dict[str, Any] = {}
        for source in (env_settings, dotenv_settings):
            assert isinstance(source, EnvSettingsSource)
            source.env_vars = without_empty(source.env_vars, fields)
            if source is env_settings:
                unknown = misspelt(source.env_vars, fields)
        return (
            init_settings,
            env_settings,
            dotenv_settings,
            InitSettingsSource(settings_cls, unknown),
        )


class RoomSettings(RealtimeSettings):
    """Limits of rooms, and what is kept of them."""

    max_backlog_bytes: int = Field(1_048_576, ge=1)
    """Bytes that may wait for one member; one that has more waiting is closed with 1013."""

    max_pending_bytes: int = Field(268_435_456, ge=1)
    """Bytes that may wait for all members together; then those with most waiting get 1013."""

    presence_limit: int = Field(100, ge=0)
    """Members up to which a room names who comes and goes; a larger room sends counts."""

    joins_per_second_per_ip: float = Field(50, gt=0)
    """Rooms that one address may join a second, ten times that at once; then it gets 429."""

    history_length: int = Field(100, ge=0)
    """Messages of each room that are kept for members who come back."""

    several_workers_need: ClassVar[str] = "a broker that reaches other processes"
    """What rooms must have to span processes."""

    @property
    def is_in_memory(self) -> bool:
        """Whether rooms live in one process."""
        return True

    @model_validator(mode="after")
    def check_workers(self) -> Self:
        """Refuse several workers for rooms that can't span them."""
        if self.workers > 1 and self.is_in_memory:
            raise ValueError(
                f"APP_WORKERS={self.workers}: these rooms are in the memory of one process; "
                f"set it to 1, or use {self.several_workers_need}"
            )
        return self
