"""Settings that work, settings that don't, and the file that lists them."""

from pathlib import Path

import pytest

from {{ cookiecutter.__package_name }}.settings import Settings, load_settings

EXAMPLE = Path(__file__).parents[1] / ".env.example"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORT", "9000")
    monkeypatch.setenv("APP_ALLOWED_ORIGINS", "https://a.example:443,HTTPS://B.example:8443,")
    monkeypatch.setenv("APP_HOST", "")
    settings = load_settings()
    assert settings.port == 9000
    assert settings.allowed_origins == ("https://a.example", "https://b.example:8443")
    assert settings.host == "127.0.0.1"


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
        ("APP_ALLOWED_ORIGINS", "null", "looks like https://chat.example.com"),
        ("APP_ALLOWED_ORIGINS", "https://bücher.example", "looks like https://chat.example.com"),
        ("APP_ALLOWED_ORIGINS", "https://*.example", "looks like https://chat.example.com"),
        ("APP_ALLOWED_ORIGINS", "https://me@a.example", "looks like https://chat.example.com"),
        ("APP_ALLOWED_ORIGINS", "https://a.example:port", "looks like https://chat.example.com"),
    ],
)
def test_a_setting_that_does_not_work_is_named_with_its_rule(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, rule: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as refusal:
        load_settings()
    _, line = str(refusal.value).splitlines()
    assert name in line
    assert value in line
    assert rule in line
    assert "pydantic" not in line


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"APP_PORT=\xff")
    with pytest.raises(SystemExit, match="not UTF-8"):
        load_settings()


def test_the_example_file_lists_every_setting_with_its_default(tmp_path: Path) -> None:
    lines = [line for line in EXAMPLE.read_text("utf-8").splitlines() if line.startswith("# APP_")]
    names = [line.removeprefix("# APP_").partition("=")[0].lower() for line in lines]
    assert names == list(Settings.model_fields)
    uncommented = tmp_path / ".env"
    uncommented.write_text("\n".join(line.removeprefix("# ") for line in lines), "utf-8")
    assert Settings(_env_file=uncommented) == Settings()
