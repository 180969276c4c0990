"""Settings: how they are read, and how those that don't work are explained."""

from pathlib import Path
from typing import Self

import pytest
from fastapi_realtime import (
    RealtimeSettings,
    SettingsError,
    load_settings,
)
from fastapi_realtime.testing import make_settings
from pydantic import Field, SecretStr, model_validator


class Settings(RealtimeSettings):
    """The engine's settings, and one of an owner's."""

    prefix: str = "> "
    secret: SecretStr = Field(SecretStr("x" * 20), min_length=10)

    @model_validator(mode="after")
    def check_ports(self) -> Self:
        """Refuse a port that several workers can't share."""
        if self.workers > 1 and self.port == 0:
            raise ValueError("APP_PORT=0: several workers need one port")
        return self


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORT", "9000")
    monkeypatch.setenv("APP_ALLOWED_ORIGINS", "https://a.example:443,HTTPS://B.example:8443,")
    monkeypatch.setenv("APP_HOST", "")
    settings = load_settings(Settings)
    assert settings.port == 9000
    assert settings.allowed_origins == ("https://a.example", "https://b.example:8443")
    assert settings.host == "127.0.0.1"


def test_a_port_that_a_host_of_containers_sets_is_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORT", "8001")
    assert load_settings(Settings).port == 8001
    Path(".env").write_text("APP_PORT=8002", "utf-8")
    assert load_settings(Settings).port == 8002
    monkeypatch.setenv("APP_PORT", "8003")
    assert load_settings(Settings).port == 8003
    assert make_settings(Settings).port == 8000
    monkeypatch.setenv("APP_PORT", "")
    Path(".env").unlink()
    monkeypatch.setenv("PORT", "many")
    with pytest.raises(SettingsError, match="APP_PORT or PORT='many': .* valid integer"):
        load_settings(Settings)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("APP_PORT", "70000", "less than or equal to 65535"),
        ("APP_PORT", "http", "valid integer"),
        ("APP_MAX_MESSAGE_BYTES", "0", "greater than or equal to 1"),
        ("APP_IDLE_TIMEOUT", "0", "greater than 0"),
        ("APP_MAX_CONNECTIONS", "0", "greater than or equal to 1"),
        ("APP_MESSAGES_PER_SECOND", "0", "greater than 0"),
        ("APP_LOG_FORMAT", "xml", "'text' or 'json'"),
        ("APP_REQUIRE_ORIGIN", "perhaps", "valid boolean"),
        ("APP_ALLOWED_ORIGINS", "chat.example.com", "looks like https://chat.example.com"),
        ("APP_ALLOWED_ORIGINS", "https://a.example/", "looks like https://chat.example.com"),
        ("APP_ALLOWED_ORIGINS", "https://", "looks like https://chat.example.com"),
        ("APP_ALLOWED_ORIGINS", "null", "only * allows pages opened from a file"),
        ("APP_ALLOWED_ORIGINS", "file://", "only * allows pages opened from a file"),
        ("APP_ALLOWED_ORIGINS", "https://bücher.example", "looks like https://chat.example.com"),
        ("APP_ALLOWED_ORIGINS", "https://*.example", "looks like https://chat.example.com"),
        ("APP_ALLOWED_ORIGINS", "https://me@a.example", "looks like https://chat.example.com"),
        ("APP_ALLOWED_ORIGINS", "https://a.example:port", "looks like https://chat.example.com"),
        ("APP_TRUSTED_PROXIES", "proxy.example", "looks like 10.0.0.5"),
        ("APP_TRUSTED_PROXIES", "10.0.0.5/8", "10.0.0.0/8"),
        ("APP_PORT", "tcp://10.0.0.1:80", "enableServiceLinks: false"),
    ],
)
def test_an_invalid_setting_is_named_with_its_rule(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, rule: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refusal:
        load_settings(Settings)
    _, line = str(refusal.value).splitlines()
    assert name in line
    assert value in line
    assert rule in line
    assert "pydantic" not in line


def test_a_rule_for_several_settings_is_shown_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_WORKERS", "2")
    monkeypatch.setenv("APP_PORT", "0")
    with pytest.raises(SettingsError) as refusal:
        load_settings(Settings)
    lines = ["These settings do not work:", "  APP_PORT=0: several workers need one port"]
    assert str(refusal.value).splitlines() == lines


@pytest.mark.parametrize(
    "name",
    [
        "APP_MAX_CONECTIONS",
        "app_max_conections",
        "APP_WORKER",
        "APP_PROT",
        "APP_MAX_MESSAGE_SIZE",
        "APP_ORIGINS",
        "APP_DRAIN",
        "APP_CONNECTIONS_PER_IP",
        "APP_MAX_SECONDS_TO_DRAIN",
    ],
)
def test_a_misspelt_variable_is_refused_with_the_right_name(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    right = {
        "APP_WORKER": "APP_WORKERS",
        "APP_PROT": "APP_PORT",
        "APP_ORIGINS": "APP_ALLOWED_ORIGINS",
        "APP_DRAIN": "APP_DRAIN_SECONDS",
        "APP_MAX_SECONDS_TO_DRAIN": "APP_DRAIN_SECONDS",
    }.get(name, "APP_MAX_")
    monkeypatch.setenv(name, "do not show")
    with pytest.raises(
        SettingsError, match=rf"{name.upper()}: .*the nearest is {right}"
    ) as refusal:
        load_settings(Settings)
    assert "do not show" not in str(refusal.value)


@pytest.mark.parametrize(
    "name",
    [
        "APP_ENV",
        "APP_NAME",
        "APP_KEY",
        "APP_LOG",
        "APP_LOG_LEVEL",
        "APP_MESSAGE",
        "APP_TIMEOUT",
        "APP_DEMO_SERVICE_HOST",
        "APP_URL",
        "APP_HOSTNAME",
        "APP_SERVICE_HOST",
        "APP_SERVICE_PORT",
        "APP_PORT_8000_TCP",
        "APP_PORT_8000_TCP_ADDR",
        "APP_PORT_8000_TCP_PORT",
    ],
)
def test_variables_of_other_programs_are_ignored(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    assert load_settings(Settings) == Settings()


@pytest.mark.parametrize("name", ["APP_MAX_CONECTIONS", "APP_ENV", "APP_Z"])
def test_every_unknown_name_in_the_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / ".env").write_text(f"OTHER=1\n{name}=5\nAPP_PORT=9000\n", "utf-8")
    with pytest.raises(SettingsError, match=f"{name}: there is no such setting; .* APP_[A-Z_]+$"):
        load_settings(Settings)


def test_other_names_in_the_file_belong_to_other_programs(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OTHER=1\nAPP_PORT=9000\n", "utf-8")
    assert load_settings(Settings).port == 9000


@pytest.mark.parametrize("where", ["file", "environment"])
def test_a_file_may_be_shared_with_other_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    line = "APP_SHARED_ENV_FILE=true\n"
    if where == "environment":
        monkeypatch.setenv(*line.strip().split("="))
        line = ""
    file = tmp_path / ".env"
    file.write_text(f"{line}APP_ENV=test\nAPP_Z=5\nAPP_PORT=9000\n", "utf-8")
    assert load_settings(Settings).port == 9000
    file.write_text(f"{line}APP_MAX_CONECTIONS=5\n", "utf-8")
    with pytest.raises(SettingsError, match="the nearest is APP_MAX_CONNECTIONS"):
        load_settings(Settings)


def test_an_empty_value_means_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("APP_PORT=9000\nAPP_HOST=\n", "utf-8")
    monkeypatch.setenv("APP_PORT", "")
    monkeypatch.setenv("APP_ALLOWED_ORIGINS", "")
    settings = load_settings(Settings)
    assert settings.port == 9000
    assert settings.host == "127.0.0.1"
    assert settings.allowed_origins == ()


@pytest.mark.parametrize("line", ["APP_PREFIX=", "APP_PREFIX=''"])
def test_a_text_may_be_empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str) -> None:
    (tmp_path / ".env").write_text(line, "utf-8")
    assert load_settings(Settings).prefix == ""
    (tmp_path / ".env").unlink()
    monkeypatch.setenv("APP_PREFIX", "")
    assert load_settings(Settings).prefix == ""


@pytest.mark.parametrize("line", ["APP_PORT: 9000", "APP_PORT 9000", "APP_PORT", 'APP_PORT="9'])
def test_a_line_of_the_file_that_sets_nothing_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / ".env").write_text(f"# a comment\n\n{line}\n", "utf-8")
    with pytest.raises(SettingsError, match="of .env is not NAME=value"):
        load_settings(Settings)


def test_a_text_that_is_not_utf8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_HOST", "\udcff")
    with pytest.raises(SettingsError, match="it is not UTF-8"):
        load_settings(Settings)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"APP_PORT=\xff")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load_settings(Settings)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(SettingsError, match=r"The file \.env can't be read: .+"):
        load_settings(Settings)


def test_an_invalid_secret_is_named_but_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_SECRET", "too-short")
    with pytest.raises(SettingsError, match="  APP_SECRET: .*at least 10") as refusal:
        load_settings(Settings)
    assert "too-short" not in str(refusal.value)
