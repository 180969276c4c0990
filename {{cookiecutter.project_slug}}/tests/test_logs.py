"""What an operator reads."""

import json
import logging
from logging.config import dictConfig

import pytest

from {{ cookiecutter.__package_name }}.logs import JsonFormatter, Once, TextFormatter, log_config


def record(message: str, *arguments: object, **more: object) -> logging.LogRecord:
    """Return a record with these fields."""
    made = logging.LogRecord("a.logger", logging.WARNING, "a.py", 1, message, arguments, None)
    vars(made).update(more)
    return made


def test_text_has_its_fields_behind_it_and_none_can_break_out() -> None:
    formatter = TextFormatter("%(levelprefix)s %(message)s", use_colors=False)
    line = formatter.format(record("refused", status=403, origin="evil\n\x1b[31mINFO: zoë"))
    assert line == r'WARNING:  refused status=403 origin="evil\n\u001b[31mINFO: zo\u00eb"'


def test_json_is_one_object_a_line() -> None:
    line = JsonFormatter().format(record("refused %s", "a\nb", status=403))
    document = json.loads(line)
    assert document.pop("time")
    assert "\n" not in line
    assert document == {
        "level": "WARNING",
        "logger": "a.logger",
        "message": "refused a\nb",
        "status": 403,
    }


def test_json_has_tracebacks_too() -> None:
    failed = record("it broke")
    try:
        raise LookupError("why")
    except LookupError as failure:
        failed.exc_info = (LookupError, failure, failure.__traceback__)
    assert "LookupError: why" in json.loads(JsonFormatter().format(failed))["exception"]


def test_nothing_is_said_twice() -> None:
    assert not Once().filter(record('%s - "WebSocket %s" [accepted]', "client", "/path"))
    assert Once().filter(record("connected"))


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_configuration_works(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = log_config(form)
    config["loggers"] = {"a.logger": config["loggers"]["{{ cookiecutter.__package_name }}"]}
    dictConfig(config | {"disable_existing_loggers": False})
    logging.getLogger("a.logger").info("connected", extra={"client": "192.0.2.1:5"})
    logged = capsys.readouterr().err
    assert "192.0.2.1:5" in logged
    assert (form == "json") == logged.startswith("{")
