"""What the tests share: an application with default settings, and a client of it."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from {{ cookiecutter.__package_name }}.application import create_app
{% if cookiecutter.auth == "jwt" %}
from {{ cookiecutter.__package_name }}.realtime.tokens import (
    make_token,
    new_secret,
)
{% endif %}
from {{ cookiecutter.__package_name }}.settings import Settings

from .realtime.conftest import anyio_backend as anyio_backend
from .realtime.conftest import clean_environment as clean_environment
{% if cookiecutter.auth == "jwt" %}

KEY = new_secret()
{% endif %}


def settings(**changes: object) -> Settings:
    """The default settings, with these changes."""
{% if cookiecutter.auth == "jwt" %}
    return Settings.model_validate({"auth_key": KEY} | changes)
{% else %}
    return Settings.model_validate(changes)
{% endif %}


@pytest.fixture
def app() -> FastAPI:
    """The application with its default settings."""
    return create_app(settings())


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the application in this process."""
{% if cookiecutter.auth == "jwt" %}
    with TestClient(app, headers=bearer("somebody", rooms=["*"])) as client:
{% else %}
    with TestClient(app) as client:
{% endif %}
        yield client
{% if cookiecutter.auth == "jwt" %}


def bearer(subject: str, seconds: float = 600, **claims: object) -> dict[str, str]:
    """The header with a token for a subject."""
    token = make_token(subject, seconds, settings(), claims=claims)
    return {"authorization": f"Bearer {token}"}
{% endif %}
