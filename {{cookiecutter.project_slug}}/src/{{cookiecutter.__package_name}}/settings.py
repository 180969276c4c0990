"""Every knob of this application, in one place."""

from typing import Annotated, Any, Literal

from fastapi import Depends
from fastapi.requests import HTTPConnection
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

{% if cookiecutter.auth == "jwt" %}
from .keys import Algorithm, AuthKey
{% endif %}
from .origin import normal_origin


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [item.strip() for item in value.split(",") if item.strip()]


def _check_origin(text: str) -> str:
    origin = text if text == "*" else normal_origin(text)
    if origin is None:
        raise ValueError("an origin looks like https://chat.example.com or http://localhost:5173")
    return origin


Origin = Annotated[str, AfterValidator(_check_origin)]


class Settings(BaseSettings):
    """Settings, each read from the variable `APP_<NAME>`, or from the same line in `.env`."""

    model_config = SettingsConfigDict(
        env_prefix="APP_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` is every network of this machine."""

    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""

    workers: int = Field(1, ge=1)
    """Processes that share the port."""

    allowed_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_split)] = ()
    """Origins whose pages may connect, besides our own, separated by commas; `*` is any."""

    require_origin: bool = False
    """Refuse clients that send no origin, that is, everything but browsers."""

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

    auth_audience: str = ""
    """What a token must name as its audience; without it, tokens must name none."""
{% endif %}
{% if cookiecutter.include_echo %}

    echo_prefix: str = "Message text was: "
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


def load_settings() -> Settings:
    """Read the settings, or exit with a sentence for each that does not work."""
    try:
        return Settings()
    except ValidationError as failure:
        lines = [_explain(error) for error in failure.errors(include_url=False)]
        raise SystemExit("\n".join(["These settings do not work:", *lines])) from None
    except UnicodeDecodeError:
        raise SystemExit("The file .env is not UTF-8.") from None


def _explain(error: ErrorDetails) -> str:
    name = f"APP_{str(error['loc'][0]).upper()}"
    rule = error["msg"].removeprefix("Value error, ")
{% if cookiecutter.auth == "jwt" %}
    if name == "APP_AUTH_KEY":
        return f"  {name}: {rule}"
{% endif %}
    return f"  {name}={error['input']!r}: {rule}"


def from_state(name: str) -> Any:
    """Return a dependency on what `create_app` keeps in the application's state."""

    async def get(connection: HTTPConnection) -> Any:  # a plain function would run in a thread
        return getattr(connection.app.state, name)

    return Depends(get)


SettingsDep = Annotated[Settings, from_state("settings")]
