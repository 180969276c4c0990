"""The settings, and the file that lists them."""

from pathlib import Path

import pytest

from {{ cookiecutter.__package_name }}.realtime import (
    SettingsError,
    load_settings,
)
from {{ cookiecutter.__package_name }}.settings import Settings
{% if cookiecutter.auth == "jwt" %}

from .conftest import settings
{% endif %}

EXAMPLE = Path(__file__).parents[1] / ".env.example"


def test_a_setting_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
{% if cookiecutter.auth == "jwt" %}
    monkeypatch.setenv("APP_AUTH_KEY", settings().auth_key.get_secret_value())
{% endif %}
    monkeypatch.setenv("APP_PORT", "9000")
    assert load_settings(Settings).port == 9000


def test_an_invalid_setting_is_named_with_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORT", "70000")
    with pytest.raises(SettingsError, match="APP_PORT='70000': .* less than or equal to 65535"):
        load_settings(Settings)


def test_the_example_file_lists_every_setting_with_its_default(tmp_path: Path) -> None:
    lines = [line for line in EXAMPLE.read_text("utf-8").splitlines() if line.startswith("# APP_")]
    names = [line.removeprefix("# APP_").partition("=")[0].lower() for line in lines]
    assert names == list(Settings.model_fields)
    uncommented = tmp_path / ".env"
    uncommented.write_text("\n".join(line.removeprefix("# ") for line in lines), "utf-8")
{% if cookiecutter.auth == "jwt" %}
    key = settings().auth_key.get_secret_value()
    assert Settings(_env_file=uncommented, auth_key=key) == Settings(auth_key=key)
{% else %}
    assert Settings(_env_file=uncommented) == Settings()
{% endif %}
