"""The application: its parts, and how they are wired."""

from fastapi import FastAPI

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
from .realtime import Engine, add_asyncapi
{% if cookiecutter.include_broadcast %}
from .realtime.rooms import Rooms
{% endif %}
{% if cookiecutter.__redis %}
from .realtime.rooms.redis import redis_broker
{% endif %}
{% if cookiecutter.auth == "jwt" %}
from .realtime.tokens import TokenAuthenticator
{% endif %}
from .settings import Settings
{% if cookiecutter.include_demo %}
from .web.routes import router as web
{% endif %}


def create_app(settings: Settings) -> FastAPI:
    """Return the application with these settings."""
    title = {{ cookiecutter.__title_python }}
    app = FastAPI(title=title)

{% if cookiecutter.include_broadcast or cookiecutter.auth == "jwt" %}
    engine = Engine(
        settings,
{% if cookiecutter.auth == "jwt" %}
        authenticator=TokenAuthenticator(settings, policy.is_revoked),
{% endif %}
{% if cookiecutter.include_broadcast %}
{% if cookiecutter.__redis and cookiecutter.auth == "jwt" %}
        services=[Rooms(settings, policy, broker=redis_broker)],
{% elif cookiecutter.__redis %}
        services=[Rooms(settings, broker=redis_broker)],
{% elif cookiecutter.auth == "jwt" %}
        services=[Rooms(settings, policy)],
{% else %}
        services=[Rooms(settings)],
{% endif %}
{% endif %}
    )
    engine.install(app)
{% else %}
    Engine(settings).install(app)
{% endif %}

    add_asyncapi(app)
    app.include_router(health)
{% if cookiecutter.include_echo %}
    app.include_router(echo)
{% endif %}
{% if cookiecutter.include_json %}
    app.include_router(json_messages)
{% endif %}
{% if cookiecutter.include_broadcast %}
    app.include_router(broadcast)
{% endif %}
{% if cookiecutter.include_demo %}
    if settings.demo:
        app.include_router(web)
{% endif %}
    return app
