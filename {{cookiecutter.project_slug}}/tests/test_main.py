"""The application as a whole: its settings, its command, and the routes that it always has."""

import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_realtime import load_settings
from fastapi_realtime.testing import routes_without_admission

from {{ cookiecutter.__package_name }} import main
from {{ cookiecutter.__package_name }}.__main__ import main as command
from {{ cookiecutter.__package_name }}.settings import Settings

{% if cookiecutter.auth == "jwt" and cookiecutter.include_demo %}
from .conftest import KEY, settings

{% elif cookiecutter.auth == "jwt" %}
from .conftest import KEY

{% elif cookiecutter.include_demo %}
from .conftest import settings

{% endif %}
EXAMPLE = Path(__file__).parents[1] / ".env.example"
WITHOUT_ADMISSION: set[str] = set()
"""Paths of WebSocket routes that any web page may connect to, and without limits."""


def test_every_websocket_route_has_admission(app: FastAPI) -> None:
    hint = "take `connection: Admitted`, or name the path in WITHOUT_ADMISSION"
    assert set(routes_without_admission(app.routes)) == WITHOUT_ADMISSION, hint


def test_it_is_ready_between_start_and_stop(app: FastAPI) -> None:
    client = TestClient(app)
    assert client.get("/readyz").status_code == 503
    with client:
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.head("/readyz").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert client.get("/livez").json() == {"status": "alive"}


def test_websocket_routes_are_documented(client: TestClient) -> None:
    document = client.get("/asyncapi.json").json()
    addresses = {channel["address"] for channel in document["channels"].values()}
{% if cookiecutter.include_echo %}
    assert "/ws" in addresses
{% endif %}
{% if cookiecutter.include_json %}
    assert "/ws_json" in addresses
{% endif %}
{% if cookiecutter.include_broadcast %}
    assert {"/ws_broadcast", "/ws_broadcast/{room}"} <= addresses
{% endif %}
{% if not cookiecutter.__endpoints %}
    assert addresses == set()
{% endif %}
    assert "WebSocket API" in client.get("/asyncapi").text
{% if cookiecutter.include_demo %}


def test_there_is_a_page_unless_a_setting_turns_it_off(client: TestClient) -> None:
    page = client.get("/")
    assert "<h1>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert TestClient(main.create_app(settings(demo=False))).get("/").status_code == 404
{% endif %}


{% if cookiecutter.auth == "jwt" %}
def test_a_server_finds_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
{% else %}
def test_a_server_finds_the_application() -> None:
{% endif %}
    assert main.app.title
    with pytest.raises(AttributeError):
        main.application  # noqa: B018


def test_an_invalid_setting_stops_the_command_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APP_PORT", "70000")
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit, match="APP_PORT='70000': .* less than or equal to 65535"):
        command()


{% if cookiecutter.auth == "jwt" %}
def test_the_example_file_lists_every_setting_with_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
{% else %}
def test_the_example_file_lists_every_setting_with_its_default() -> None:
{% endif %}
    lines = [line for line in EXAMPLE.read_text("utf-8").splitlines() if line.startswith("# APP_")]
    names = [line.removeprefix("# APP_").partition("=")[0].lower() for line in lines]
    assert names == list(Settings.model_fields)
    Path(".env").write_text("\n".join(line.removeprefix("# ") for line in lines), "utf-8")
{% if cookiecutter.auth == "jwt" %}
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
    assert load_settings(Settings) == Settings.model_validate({"auth_key": KEY})
{% else %}
    assert load_settings(Settings) == Settings.model_validate({})
{% endif %}
