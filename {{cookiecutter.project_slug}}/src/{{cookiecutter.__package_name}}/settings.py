"""Every knob of this application, in one place."""

import re
from typing import Annotated, Any

from fastapi import Depends
from fastapi.requests import HTTPConnection
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# A scheme, a host name or an address, and perhaps a port; nothing that no browser sends.
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [item.strip() for item in value.split(",") if item.strip()]


def _check_origin(origin: str) -> str:
    """Return an origin as browsers send it (RFC 6454 §6.2), or `*`."""
    origin = origin.lower()
    if origin != "*" and not ORIGIN.fullmatch(origin):
        raise ValueError("an origin looks like https://chat.example.com or http://localhost:5173")
    scheme, _, host = origin.partition("://")
    return f"{scheme}://{host.removesuffix(DEFAULT_PORTS.get(scheme, ' '))}" if host else origin


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

    allowed_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_split)] = ()
    """Origins whose pages may connect, besides our own, separated by commas; `*` is any."""

    require_origin: bool = False
    """Refuse clients that send no origin, that is, everything but browsers."""

    max_message_bytes: int = Field(65_536, ge=1)
    """Longest message a client may send, in bytes; a longer one closes with 1009."""

    max_invalid_messages: int = Field(10, ge=0)
    """Invalid messages in a row that are answered with an error; one more closes with 1008."""

    idle_timeout: float = Field(3600, gt=0)
    """Seconds a client may send nothing before it is closed with 1001; `inf` is for ever."""

    drain_seconds: int = Field(10, ge=1)
    """Seconds that open connections have to end when the server stops."""
{% if cookiecutter.include_echo %}

    echo_prefix: str = "Message text was: "
    """What the echo endpoint puts before a text."""
{% endif %}
{% if cookiecutter.include_broadcast %}

    max_backlog_bytes: int = Field(1_048_576, ge=1)
    """Bytes that may wait for a member of a room; one that has more waiting is cut off, 1013."""

    history_length: int = Field(100, ge=0)
    """Messages of each room that are kept for members who come back."""
{% endif %}


def load_settings() -> Settings:
    """Read the settings, or exit with a sentence for each that does not work."""
    try:
        return Settings()
    except ValidationError as failure:
        lines = [
            f"  APP_{str(error['loc'][0]).upper()}={error['input']!r}: {error['msg']}"
            for error in failure.errors(include_url=False)
        ]
        raise SystemExit("\n".join(["These settings do not work:", *lines])) from None
    except UnicodeDecodeError:
        raise SystemExit("The file .env is not UTF-8.") from None


def from_state(name: str) -> Any:
    """Return a dependency on what `create_app` keeps in the application's state."""

    async def get(connection: HTTPConnection) -> Any:  # a plain function would run in a thread
        return getattr(connection.app.state, name)

    return Depends(get)


SettingsDep = Annotated[Settings, from_state("settings")]
