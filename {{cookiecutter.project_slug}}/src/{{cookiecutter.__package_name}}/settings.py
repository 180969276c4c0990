"""The settings of this application. Add your own here, a line each."""

from typing import Annotated

from fastapi import Depends

{% if cookiecutter.include_broadcast or cookiecutter.auth == "jwt" %}
from .realtime import current_settings
{% else %}
from .realtime import RealtimeSettings, current_settings
{% endif %}
{% if cookiecutter.__redis %}
from .realtime.rooms.redis import RedisSettings
{% elif cookiecutter.include_broadcast %}
from .realtime.rooms import RoomSettings
{% endif %}
{% if cookiecutter.auth == "jwt" %}
from .realtime.tokens import TokenSettings
{% endif %}


{% if cookiecutter.__redis and cookiecutter.auth == "jwt" %}
class Settings(RedisSettings, TokenSettings):
{% elif cookiecutter.__redis %}
class Settings(RedisSettings):
{% elif cookiecutter.include_broadcast and cookiecutter.auth == "jwt" %}
class Settings(RoomSettings, TokenSettings):
{% elif cookiecutter.include_broadcast %}
class Settings(RoomSettings):
{% elif cookiecutter.auth == "jwt" %}
class Settings(TokenSettings):
{% else %}
class Settings(RealtimeSettings):
{% endif %}
    """Each is read from the variable `APP_<NAME>`, or from the same line in `.env`.

    The engine's own, such as limits, are inherited; `README.md` lists them all.
    """
{% if cookiecutter.include_echo %}

    echo_prefix: str = "Message text was: "
    """Put before every text that the echo endpoint returns."""
{% endif %}
{% if cookiecutter.include_demo %}

    demo: bool = True
    """Whether there is a page at `/` that shows the endpoints."""
{% endif %}


SettingsDep = Annotated[Settings, Depends(current_settings)]
