"""What the tests share: the application with default settings, and a client of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_realtime.testing import make_settings
{% if cookiecutter.auth == "jwt" %}
from fastapi_realtime.tokens import make_token, new_secret
{% endif %}

from {{ cookiecutter.__package_name }}.main import create_app
from {{ cookiecutter.__package_name }}.settings import Settings
{% if cookiecutter.auth == "jwt" %}

KEY = new_secret()
{% endif %}


def settings(**changes: object) -> Settings:
    """The default settings, with these changes."""
{% if cookiecutter.auth == "jwt" %}
    return make_settings(Settings, auth_key=KEY, **changes)
{% else %}
    return make_settings(Settings, **changes)
{% endif %}
{% if cookiecutter.auth == "jwt" %}


def bearer(subject: str = "somebody", **claims: object) -> dict[str, str]:
{% if cookiecutter.include_broadcast %}
    """The header with a token for a subject; by default it opens all rooms."""
    token = make_token(subject, 600, settings(), claims={"rooms": ["*"]} | claims)
{% else %}
    """The header with a token for a subject."""
    token = make_token(subject, 600, settings(), claims=claims)
{% endif %}
    return {"authorization": f"Bearer {token}"}
{% endif %}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the settings of this machine out of all tests."""
    for name in [name for name in os.environ if name.startswith("APP_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # where no .env is


@pytest.fixture
def app() -> FastAPI:
    """The application with its default settings."""
    return create_app(settings())


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the application in this process."""
{% if cookiecutter.auth == "jwt" %}
    with TestClient(app, headers=bearer()) as client:
{% else %}
    with TestClient(app) as client:
{% endif %}
        yield client
