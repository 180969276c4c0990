"""The settings of this application."""

from typing import Annotated

from fastapi import Depends
{% if cookiecutter.include_broadcast or cookiecutter.auth == "jwt" %}
from fastapi_realtime import current_settings
{% else %}
from fastapi_realtime import RealtimeSettings, current_settings
{% endif %}
{% if cookiecutter.__redis %}
from fastapi_realtime.rooms.redis import RedisSettings
{% elif cookiecutter.include_broadcast %}
from fastapi_realtime.rooms import RoomSettings
{% endif %}
{% if cookiecutter.auth == "jwt" %}
from fastapi_realtime.tokens import TokenSettings
{% endif %}


class Settings({{ cookiecutter.__settings }}):
    """Each is read from the environment variable `APP_<NAME>`, or from `.env`.

    The engine's own, such as limits, are inherited; `.env.example` lists them all.
    """
{% if cookiecutter.include_echo %}

    echo_prefix: str = "Message text was: "
    """Put before every text that the echo endpoint returns."""
{% endif %}
{% if cookiecutter.include_broadcast and cookiecutter.auth == "jwt" %}

    join_user_room: bool = False
    """Whether members join `user:<subject>` by themselves, so that one person can be reached."""
{% endif %}
{% if cookiecutter.include_demo %}

    demo: bool = True
    """Whether there is a page at `/` that shows the endpoints."""
{% endif %}

    # Your own follow here, a line each.


SettingsDep = Annotated[Settings, Depends(current_settings)]
