"""The application: its parts, and how they are wired."""

{% if cookiecutter.include_demo %}
from pathlib import Path

{% endif %}
from fastapi import FastAPI
{% if cookiecutter.include_demo %}
from fastapi_realtime import Realtime, add_asyncapi, add_page, load_settings
{% else %}
from fastapi_realtime import Realtime, add_asyncapi, load_settings
{% endif %}
{% if cookiecutter.include_broadcast %}
from fastapi_realtime.rooms import Rooms
{% endif %}
{% if cookiecutter.__redis %}
from fastapi_realtime.rooms.redis import redis_broker
{% endif %}
{% if cookiecutter.auth == "jwt" %}
from fastapi_realtime.tokens import TokenAuthenticator
{% endif %}

{% if cookiecutter.auth == "jwt" %}
from . import policy
{% endif %}
{% if cookiecutter.include_broadcast %}
from .endpoints.broadcast import router as broadcast
{% endif %}
{% if cookiecutter.include_echo %}
from .endpoints.echo import router as echo
{% endif %}
from .endpoints.health import router as health
{% if cookiecutter.include_json %}
from .endpoints.json_messages import router as json_messages
{% endif %}
from .settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """Return the application with these settings."""
    title = {{ cookiecutter.__title_python }}
    app = FastAPI(title=title)

{% if cookiecutter.auth == "jwt" %}
    realtime = Realtime(
        settings,
        authenticator=TokenAuthenticator(settings, policy.is_revoked),
{% if cookiecutter.include_broadcast %}
        services=[Rooms(settings, policy{{ ", broker=redis_broker" if cookiecutter.__redis }})],
{% endif %}
    )
{% elif cookiecutter.include_broadcast %}
    realtime = Realtime(settings, services=[Rooms(settings{{ ", broker=redis_broker" if cookiecutter.__redis }})])
{% else %}
    realtime = Realtime(settings)
{% endif %}
    realtime.install(app)

    add_asyncapi(app)
{% if cookiecutter.include_demo %}
    if settings.demo:
        add_page(app, Path(__file__).parent / "web")
{% endif %}
{% if cookiecutter.include_echo %}
    app.include_router(echo)
{% endif %}
{% if cookiecutter.include_json %}
    app.include_router(json_messages)
{% endif %}
{% if cookiecutter.include_broadcast %}
    app.include_router(broadcast)
{% endif %}
    app.include_router(health)
    return app


def __getattr__(name: str) -> FastAPI:
    """Make `app` on first use, by a server; importing this module alone reads no settings."""
    if name != "app":
        raise AttributeError(name)
    globals()[name] = app = create_app(load_settings(Settings))
    return app
