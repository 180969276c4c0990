"""Log lines, as text and as JSON."""

import asyncio
import json
import logging
import re
from collections.abc import Generator
from contextlib import contextmanager
from logging.config import dictConfig
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import fastapi_realtime.server.logging as server_logging
import pytest
from fastapi_realtime import RealtimeSettings
from uvicorn.config import LOGGING_CONFIG

from .serving import (
    PACKAGE,
    Serve,
    connect,
    echo_app,
    realtime_app,
    receive_all,
    running,
    send_while_open,
)


def record(message: str, *arguments: object, **more: object) -> logging.LogRecord:
    """Return a record with these fields."""
    made = logging.LogRecord("a.logger", logging.WARNING, "a.py", 1, message, arguments, None)
    vars(made).update(more)
    return made


def test_a_task_that_is_cancelled_at_shutdown_leaves_no_traceback() -> None:
    error = asyncio.CancelledError()
    made = record("Exception in ASGI application", exc_info=(type(error), error, None))
    assert server_logging._filter_uvicorn(made)
    assert (made.msg, made.levelname, made.exc_info) == ("Cancelled an ASGI task.", "INFO", None)


def test_text_line_ends_with_escaped_fields() -> None:
    line = server_logging.TextFormatter().format(
        record("refused", status=403, origin="evil\n\x1b[31mINFO: zoë")
    )
    assert line == r'WARNING:  refused status=403 origin="evil\n\u001b[31mINFO: zo\u00eb"'


@pytest.mark.parametrize(
    "formatter", [server_logging.TextFormatter(), server_logging.JsonFormatter()]
)
def test_long_values_are_shortened(formatter: logging.Formatter) -> None:
    line = formatter.format(record("refused", origin="\x1b" * 8000))
    assert line.count("\\u001b") == server_logging.MAX_LOGGED
    assert "\\u2026" in line


@pytest.mark.parametrize(
    ("behind", "address"),
    [
        ("192.0.2.1", "192.0.2.1:0"),
        ("[2001:db8::1]:99", "2001:db8::1:99"),
        ("<script> of an attacker", "unknown:0"),
        ("a" * 65, "unknown:0"),
        ("192.0.2.1:99999999", "unknown:0"),
    ],
)
def test_access_line_has_an_address_and_a_short_path(
    serve: Serve, caplog: pytest.LogCaptureFixture, behind: str, address: str
) -> None:
    url = serve(echo_app()).replace("ws://", "http://")
    request = Request(f"{url}/{'x' * 5000}", headers={"X-Forwarded-For": behind})
    with pytest.raises(HTTPError):
        build_opener(ProxyHandler({})).open(request, timeout=10)
    (line,) = [each.getMessage() for each in caplog.records if each.name == "uvicorn.access"]
    assert line.startswith(f'{address} - "GET /xxx')
    assert len(line) < 300


def test_levels_are_coloured_on_a_terminal() -> None:
    assert (
        server_logging.TextFormatter(use_colors=True)
        .format(record("refused"))
        .startswith("\x1b[33mWARNING:")
    )


def test_json_is_one_object_a_line() -> None:
    line = server_logging.JsonFormatter().format(record("refused %s", "a\nb", status=403))
    document = json.loads(line)
    assert document.pop("time")
    assert "\n" not in line
    assert document == {
        "level": "WARNING",
        "logger": "a.logger",
        "message": "refused a\nb",
        "status": 403,
    }


def test_json_includes_tracebacks() -> None:
    failed = record("it broke")
    try:
        raise LookupError("why")
    except LookupError as failure:
        failed.exc_info = (LookupError, failure, failure.__traceback__)
    assert (
        "LookupError: why" in json.loads(server_logging.JsonFormatter().format(failed))["exception"]
    )


@contextmanager
def without_handlers(name: str = PACKAGE) -> Generator[logging.Logger]:
    """Yield a logger, by default the engine's, as if logging had not been set up."""
    own = logging.getLogger(name)
    root = logging.getLogger()
    before = own.handlers, own.level, root.handlers, root.level
    own.handlers, root.handlers = [], []
    try:
        yield own
    finally:
        own.handlers, own.level, root.handlers, root.level = before


@pytest.mark.parametrize("form", ["text", "json"])
def test_engine_logs_where_logging_has_not_been_set_up(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    with without_handlers() as own:
        for _ in range(2):
            realtime_app(RealtimeSettings.model_validate({"log_format": form}))
        own.info("connected", extra={"client": "192.0.2.1:5"})
    (line,) = capsys.readouterr().err.splitlines()
    assert "192.0.2.1:5" in line
    assert (form == "json") == line.startswith("{")


class ShopSettings(RealtimeSettings):
    """The settings of an application in the package `shop`."""

    __module__ = "shop.settings"


def test_the_application_logs_as_the_engine_does(capsys: pytest.CaptureFixture[str]) -> None:
    with without_handlers(), without_handlers("shop"):
        realtime_app(ShopSettings())
        logging.getLogger("shop.orders").info("sold", extra={"number": 7})
    assert capsys.readouterr().err == "INFO:     sold number=7\n"


@pytest.mark.parametrize("form", ["text", "json"])
def test_server_and_libraries_log_in_the_same_format(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loggers = {
        "a.server": LOGGING_CONFIG["loggers"]["uvicorn"],
        PACKAGE: {"level": "INFO"},
        "shop": {"level": "INFO"},
    }
    with without_handlers() as own:
        dictConfig(server_logging.uvicorn_log_config(form, "shop") | {"loggers": loggers})
        logging.getLogger("a.server").info("started")
        own.info("connected", extra={"status": 101})
        logging.getLogger("a.library").warning("careful")
    lines = capsys.readouterr().err.splitlines()
    for line, part in zip(lines, ["started", "101", "careful"], strict=True):
        assert part in line
        assert (form == "json") == line.startswith("{")


@pytest.mark.parametrize(("form", "captured"), [("text", []), ("json", [True])])
def test_python_warnings_are_logged_as_json(
    monkeypatch: pytest.MonkeyPatch, form: str, captured: list[bool]
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(logging, "captureWarnings", calls.append)
    realtime_app(RealtimeSettings.model_validate({"log_format": form}))
    assert calls == captured


def test_start_and_end_of_a_connection_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with running(echo_app()) as url, connect(f"{url}/all") as client:
        port = client.local_address[1]
    own = re.compile(rf"[:, ]{port}\b")
    lines = [record for record in caplog.records if own.search(str(vars(record)))]
    assert [record.getMessage() for record in lines] == ["connected", "disconnected"]
    assert "connection open" not in caplog.text


def test_last_line_of_a_connection_counts_its_messages(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with (
        running(echo_app()) as url,
        connect(f"{url}/all", behind="192.0.2.1") as client,
    ):
        for _ in range(3):
            client.send("Hello")
            client.recv(timeout=10)
    first, last = [vars(each) for each in caplog.records if "connected" in each.message]
    assert first["connection"] == last["connection"]
    assert last["client"] == "192.0.2.1"
    assert last["path"] == "/all"
    assert (last["code"], last["messages_in"], last["messages_out"]) == (1000, 3, 3)
    assert 0 < last["seconds"] < 60


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (("192.0.2.1", 80), "192.0.2.1:80"),
        (("192.0.2.1", 0), "192.0.2.1"),
        (("2001:db8::1", 80), "[2001:db8::1]:80"),
        (("2001:db8::1", 0), "2001:db8::1"),
        (None, "unknown"),
    ],
)
def test_addresses_are_written_with_their_port_if_known(
    client: tuple[str, int] | None, address: str
) -> None:
    assert server_logging.address_of(client) == address


def test_messages_of_clients_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with (
        running(echo_app(max_message_bytes=10)) as url,
        connect(f"{url}/all") as client,
    ):
        send_while_open(client, "a secret", "a secret, too long")
        receive_all(client)
    assert 1009 in [vars(each).get("code") for each in caplog.records]
    assert not [record for record in caplog.records if "a secret" in str(vars(record))]
