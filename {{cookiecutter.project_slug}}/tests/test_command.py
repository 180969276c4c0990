"""The command `{{ cookiecutter.project_slug }}`."""

import runpy
import sys

{% if cookiecutter.auth == "jwt" %}
import jwt
{% endif %}
import pytest
{% if cookiecutter.include_broadcast %}
from fastapi import FastAPI
{% endif %}
from fastapi.testclient import TestClient

from {{ cookiecutter.__package_name }} import __main__ as command
{% if cookiecutter.include_broadcast or cookiecutter.auth == "jwt" %}

{% endif %}
{% if cookiecutter.auth == "jwt" %}
from .conftest import KEY
{% endif %}
{% if cookiecutter.include_broadcast %}
from .realtime.serving import running
{% endif %}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """Run the command with a server that ends at once; return what was served."""
    served: list[str] = []
{% if cookiecutter.include_demo %}
    monkeypatch.setattr(command, "serve", lambda name, settings, page: served.extend([name, page]))
{% else %}
    monkeypatch.setattr(command, "serve", lambda name, settings: served.append(name))
{% endif %}
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    command.main()
    return served


def test_it_serves_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
{% if cookiecutter.auth == "jwt" %}
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
{% endif %}
{% if cookiecutter.__redis %}
    monkeypatch.setenv("APP_BROKER_URL", "memory://")
{% endif %}
{% if cookiecutter.include_demo %}
    assert run(monkeypatch) == ["{{ cookiecutter.__package_name }}.main:app", "/"]
{% else %}
    assert run(monkeypatch) == ["{{ cookiecutter.__package_name }}.main:app"]
{% endif %}
    module = runpy.run_module("{{ cookiecutter.__package_name }}.main")
    with TestClient(module["app"]) as client:
        assert client.get("/readyz").status_code == 200


def test_invalid_settings_stop_it_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORT", "http")
    with pytest.raises(SystemExit, match="These settings do not work:\n.*APP_PORT='http'"):
        run(monkeypatch)
{% if cookiecutter.include_broadcast %}


def test_several_workers_are_refused_where_rooms_are_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
{% if cookiecutter.auth == "jwt" %}
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
{% endif %}
    monkeypatch.setenv("APP_WORKERS", "2")
{% if cookiecutter.__redis %}
    assert "{{ cookiecutter.__package_name }}.main:app" in run(monkeypatch)
    monkeypatch.setenv("APP_BROKER_URL", "memory://")
{% endif %}
    with pytest.raises(SystemExit, match="APP_WORKERS=2: .* in the memory of one process"):
        run(monkeypatch)


def test_it_publishes_to_a_running_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], app: FastAPI
) -> None:
{% if cookiecutter.auth == "jwt" %}
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
{% endif %}
    with running(app) as url:
        server = url.replace("ws:", "http:")
        for data in ('{"price": 3}', '"Hello"'):
            run(monkeypatch, "publish", "tea/green", data, "--url", server)
        with pytest.raises(SystemExit, match="422: the body is not JSON"):
            run(monkeypatch, "publish", "tea/green", "Hello", "--url", server)
    first, second = capsys.readouterr().out.split()
    assert (first[-2:], second[-2:]) == ("-1", "-2")
    monkeypatch.setenv("APP_PORT", "1")
    with pytest.raises(SystemExit, match="http://127.0.0.1:1/ws_broadcast/tea"):
        run(monkeypatch, "publish", "tea", "1")
{% endif %}
{% if cookiecutter.auth == "jwt" %}


def test_it_prints_keys_and_tokens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "key") == []
    assert capsys.readouterr().out.startswith("APP_AUTH_KEY=")
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
{% if cookiecutter.include_broadcast %}
    run(monkeypatch, "token", "zoe", "--minutes", "5", "--room", "tea", "--room", "team-*")
{% else %}
    run(monkeypatch, "token", "zoe", "--minutes", "5")
{% endif %}
    token = capsys.readouterr().out.strip()
{% if cookiecutter.include_broadcast %}
    claims = jwt.decode(token, KEY, ["HS256"])
    assert (claims["sub"], claims["rooms"]) == ("zoe", ["tea", "team-*"])
{% else %}
    assert jwt.decode(token, KEY, ["HS256"])["sub"] == "zoe"
{% endif %}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["zoe", "--key", "nowhere.pem"], "nowhere.pem"),
        (["zoe\n"], "printable characters"),
        (["zoe", "--minutes", "inf"], "infinity"),
    ],
)
def test_a_token_that_cannot_be_made_is_explained(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
) -> None:
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
    with pytest.raises(SystemExit, match=complaint):
        run(monkeypatch, "token", *arguments)
{% endif %}
