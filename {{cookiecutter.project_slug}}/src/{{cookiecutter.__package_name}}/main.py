"""The application: its parts, and what happens when it starts and stops."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from .admission import close_idle
{% if cookiecutter.include_broadcast %}
from .broker import MemoryBroker
{% endif %}
from .drain import Drain
{% if cookiecutter.include_broadcast %}
from .endpoints.broadcast import router as broadcast
{% endif %}
{% if cookiecutter.include_echo %}
from .endpoints.echo import router as echo
{% endif %}
{% if cookiecutter.include_json %}
from .endpoints.json_messages import router as json_messages
{% endif %}
from .errors import add_error_handlers
from .health import router as health
{% if cookiecutter.include_broadcast %}
from .hub import Hub
from .limits import JoinLimiter, Places
{% else %}
from .limits import Places
{% endif %}
from .logs import CheckClient, set_up_logging
from .open_files import connections_that_fit
from .settings import Settings, load_settings
from .transport import FindTransport


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Welcome clients between start and stop, and close those that fall silent."""
    settings: Settings = app.state.settings
    total = connections_that_fit(settings.max_connections)
    app.state.places = Places(total, settings.max_connections_per_ip)
    watch = asyncio.create_task(close_idle(app.state.connections, settings.idle_timeout))
    app.state.is_running = True
{% if cookiecutter.include_broadcast %}
    app.state.broker.bind()
{% endif %}
    with app.state.drain.on_signals():
        yield
    app.state.is_running = False
    watch.cancel()


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application, with these settings or with those of the environment."""
    settings = settings or load_settings()
    title = {{ cookiecutter.__title_python }}
    app = FastAPI(title=title, lifespan=lifespan)
    app.state.settings = settings
    app.state.is_running = False
    app.state.connections = set()
    app.state.places = Places(settings.max_connections, settings.max_connections_per_ip)
{% if cookiecutter.include_broadcast %}
    app.state.hub = hub = Hub(
        settings.max_backlog_bytes, settings.max_pending_bytes, settings.presence_limit
    )
    app.state.broker = MemoryBroker(hub, settings.history_length)
    app.state.joins = JoinLimiter(settings.joins_per_second_per_ip)
    app.state.drain = Drain(app.state.connections, settings.drain_seconds, hub.settled)
{% else %}
    app.state.drain = Drain(app.state.connections, settings.drain_seconds)
{% endif %}
    set_up_logging(settings.log_format)
    add_error_handlers(app)
    app.add_middleware(FindTransport)
    app.add_middleware(CheckClient)

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
    return app


app = create_app()
