"""Every knob of this application, in one place."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from io import StringIO
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv.parser import parse_stream
from fastapi import Depends
from fastapi.requests import HTTPConnection
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

{% if cookiecutter.auth == "jwt" %}
from .keys import Algorithm, AuthKey
{% endif %}
from .origin import normal_origin

MAY_BE_EMPTY = ("allowed_origins", "auth_audience", "echo_prefix")
"""Settings for which an empty text is a value; for all others it means the default."""
NEAR = 0.75
"""How similar a variable must be to a setting's name to be taken for it, misspelt (0 to 1)."""


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [item.strip() for item in value.split(",") if item.strip()]


def _check_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it is not UTF-8") from None
    return text


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


Text = Annotated[str, AfterValidator(_check_text)]
Origin = Annotated[str, AfterValidator(_check_origin)]
Proxy = Annotated[str, AfterValidator(_check_proxy)]


class Settings(BaseSettings):
    """Settings, each read from the variable `APP_<NAME>`, or from the same line in `.env`."""

    model_config = SettingsConfigDict(
        env_prefix="APP_",
        env_file=".env",
        dotenv_filtering="match_prefix",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    host: Text = "127.0.0.1"
    """Address to listen on; `0.0.0.0` is every network of this machine."""

    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""

    workers: int = Field(1, ge=1)
    """Processes that share the port."""

    allowed_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_split)] = ()
    """Origins whose pages may connect, besides our own, separated by commas; `*` is any."""

    require_origin: bool = False
    """Refuse clients that send no origin, that is, everything but browsers."""

    trusted_proxies: Annotated[tuple[Proxy, ...], NoDecode, BeforeValidator(_split)] = (
        "127.0.0.1",
        "::1",
    )
    """Proxies, or their networks, whose `X-Forwarded-*` headers count, by commas; `*` is any."""

    max_connections: int = Field(20_000, ge=1)
    """Connections that a process holds; one more is refused with 503."""

    max_connections_per_ip: int = Field(15_000, ge=1)
    """Connections from one address, or one IPv6 /64; one more is refused with 429."""

    max_message_bytes: int = Field(65_536, ge=1)
    """Longest message a client may send, in bytes; a longer one closes with 1009."""

    messages_per_second: float = Field(20_000, gt=0)
    """Messages that a client may send in the long run; what is too much is refused; `inf` is any."""

    message_burst: int = Field(40_000, ge=1)
    """Messages that it may send at once; as many refused ones, and it is closed with 1008."""

    max_invalid_messages: int = Field(10, ge=0)
    """Invalid messages in a row that are answered with an error; one more closes with 1008."""

    idle_timeout: float = Field(3600, gt=0)
    """Seconds a client may send nothing before it is closed with 1001; `inf` is for ever."""

    drain_seconds: int = Field(10, ge=1)
    """Seconds in which open connections are closed, with 1012, when the server stops."""

    log_format: Literal["text", "json"] = "text"
    """How the log is written: for people, or one JSON object a line."""
{% if cookiecutter.auth == "jwt" %}

    auth_algorithms: Annotated[tuple[Algorithm, ...], NoDecode, BeforeValidator(_split)] = Field(
        ("HS256",), min_length=1
    )
    """Algorithms that a token may be signed with, separated by commas, all for the one key."""

    auth_key: AuthKey = Field("", validate_default=True)
    """Secret or public key (PEM) that tokens are checked with; `file:<path>` reads a file."""

    auth_audience: Text = ""
    """What a token must name as its audience; without it, tokens must name none."""
{% endif %}
{% if cookiecutter.include_echo %}

    echo_prefix: Text = "Message text was: "
    """What the echo endpoint puts before a text."""
{% endif %}
{% if cookiecutter.include_broadcast %}

    max_backlog_bytes: int = Field(1_048_576, ge=1)
    """Bytes that may wait for a member of a room; one that has more waiting is cut off, 1013."""

    max_pending_bytes: int = Field(268_435_456, ge=1)
    """Bytes that may wait for all members together; then those with most waiting get 1013."""

    presence_limit: int = Field(100, ge=0)
    """Members of a room that are told by name who comes and goes; a larger room gets counts."""

    joins_per_second_per_ip: float = Field(50, gt=0)
    """Rooms that one address may join a second, ten times that at once; then it gets 429."""

    history_length: int = Field(100, ge=0)
    """Messages of each room that are kept for members who come back."""
{% endif %}

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
        misspelt: dict[str, Any] = {}
        for source in (env_settings, dotenv_settings):
            assert isinstance(source, EnvSettingsSource)
            source.env_vars = _without_empty(source.env_vars)
            if source is env_settings:
                misspelt = _misspelt(source.env_vars)
        return (
            init_settings,
            env_settings,
            dotenv_settings,
            InitSettingsSource(settings_cls, misspelt),
        )


def _without_empty(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    may_be_empty = {f"app_{name}" for name in MAY_BE_EMPTY}
    return {
        name: value
        for name, value in variables.items()
        if value or (value is not None and name in may_be_empty)
    }


def _misspelt(variables: Mapping[str, str | None]) -> dict[str, Any]:
    """Return variables nearly named like a setting; others belong to other programs."""
    names = [name.removeprefix("app_") for name in variables if name.startswith("app_")]
    return {
        name: ""
        for name in names
        if name not in Settings.model_fields
        and get_close_matches(name, Settings.model_fields, 1, NEAR)
    }


def load_settings() -> Settings:
    """Read the settings, or exit with a sentence for each that does not work."""
    try:
        _check_file(Path(".env"))
        return Settings()
    except ValidationError as failure:
        lines = [_explain(error) for error in failure.errors(include_url=False)]
        raise SystemExit("\n".join(["These settings do not work:", *lines])) from None
    except UnicodeDecodeError:
        raise SystemExit("The file .env is not UTF-8.") from None


def _check_file(path: Path) -> None:
    """Exit if the file has a line that can't be read; dotenv would leave it out."""
    lines = parse_stream(StringIO(path.read_text("utf-8"))) if path.is_file() else ()
    for line in lines:
        has_no_value = line.key is not None and line.key.startswith("APP_") and line.value is None
        if line.error or has_no_value:
            raise SystemExit(f"Line {line.original.line} of .env is not NAME=value.")


def _explain(error: ErrorDetails) -> str:
    name = f"APP_{str(error['loc'][0]).upper()}"
    rule = error["msg"].removeprefix("Value error, ")
{% if cookiecutter.auth == "jwt" %}
    if name == "APP_AUTH_KEY":
        return f"  {name}: {rule}"
{% endif %}
    if error["type"] == "extra_forbidden":
        (nearest,) = get_close_matches(str(error["loc"][0]), Settings.model_fields, 1, 0)
        return f"  {name}: there is no such setting; the nearest is APP_{nearest.upper()}"
    if name == "APP_PORT" and re.match("[a-z]+://", str(error["input"])):
        rule = (
            'Kubernetes sets this for a Service named "app"; set enableServiceLinks: false in the '
            "pod, rename the Service, or set APP_PORT in the container"
        )
    return f"  {name}={error['input']!r}: {rule}"


def from_state(name: str) -> Any:
    """Return a dependency on what `create_app` keeps in the application's state."""

    async def get(connection: HTTPConnection) -> Any:  # a plain function would run in a thread
        return getattr(connection.app.state, name)

    return Depends(get)


SettingsDep = Annotated[Settings, from_state("settings")]
