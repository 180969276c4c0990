"""`run_command`, the command of a project."""

import os
import re
import sys
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from fastapi_realtime import RealtimeSettings, command_line, run_command
from fastapi_realtime.rooms import Rooms, RoomSettings
from fastapi_realtime.testing import make_settings
from fastapi_realtime.tokens import TokenAuthenticator, TokenSettings, new_secret

from .room_app import PolicyFromClaims, room_app
from .serving import running

KEY = new_secret()
Run = Callable[..., list[Any]]


class AllSettings(RoomSettings, TokenSettings):
    """Settings of an application with rooms and tokens."""

    demo: bool = True


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command with a server that ends at once; return what was served."""

    def run(
        *arguments: str, kind: type[RealtimeSettings] = AllSettings, **options: Any
    ) -> list[Any]:
        served: list[Any] = []
        monkeypatch.setattr(command_line, "serve", lambda *given: served.extend(given))
        monkeypatch.setattr(sys, "argv", ["shop", *arguments])
        run_command("shop.main:app", kind, **options)
        return served

    return run


def test_without_a_subcommand_it_serves(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORT", "9000")
    application, settings, page = run(kind=RealtimeSettings)
    assert (application, settings.port, page) == ("shop.main:app", 9000, "")
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
    _, settings, page = run(page=lambda settings: "/" if settings.demo else "")
    assert (settings.port, page) == (9000, "/")


def test_settings_that_do_not_work_end_it_with_a_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
    monkeypatch.setenv("APP_WORKERS", "2")
    with pytest.raises(SystemExit, match="APP_WORKERS=2: .* in the memory of one process"):
        run()


@pytest.mark.parametrize(
    ("kind", "subcommands"),
    [
        (RealtimeSettings, ["talk", "check"]),
        (RoomSettings, ["talk", "check", "publish"]),
        (TokenSettings, ["talk", "check", "key", "token"]),
        (AllSettings, ["talk", "check", "publish", "key", "token"]),
    ],
)
def test_help_names_the_subcommands_that_the_settings_allow(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    kind: type[RealtimeSettings],
    subcommands: list[str],
) -> None:
    with pytest.raises(SystemExit):
        run("--help", kind=kind)
    assert re.findall("^    ([a-z]+) ", capsys.readouterr().out, re.MULTILINE) == subcommands


@pytest.mark.parametrize("has_tokens", [False, True])
def test_it_publishes_to_a_running_server(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_tokens: bool,
) -> None:
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
    settings = make_settings(AllSettings, auth_key=KEY)
    app = room_app()
    if has_tokens:

        async def is_revoked(claims: dict[str, Any]) -> bool:
            return False

        app = room_app(
            Rooms(settings, RoomsInToken()), authenticator=TokenAuthenticator(settings, is_revoked)
        )
    kind = AllSettings if has_tokens else RoomSettings
    with running(app) as url:
        server = ("--url", url.replace("ws:", "http:"))
        for data in ('{"price": 3}', '"Hello"'):
            run("publish", "tea/green", data, *server, kind=kind, rooms="/rooms")
        with pytest.raises(SystemExit, match="422: the body is not JSON"):
            run("publish", "tea/green", "Hello", *server, kind=kind, rooms="/rooms")
    first, second = capsys.readouterr().out.split()
    assert (first[-2:], second[-2:]) == ("-1", "-2")
    monkeypatch.setenv("APP_PORT", "1")
    with pytest.raises(SystemExit, match="http://127.0.0.1:1/ws_broadcast/tea"):
        run("publish", "tea", "1", kind=kind)


@pytest.mark.parametrize("kind", [RoomSettings, AllSettings])
def test_it_talks_to_a_running_server(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type[RealtimeSettings],
) -> None:
    said = list[tuple[str, str, bool]]()
    monkeypatch.setattr("fastapi_realtime.talk.talk", lambda *given: said.append(given))
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
    run("talk", "/ws", kind=kind)
    run("talk", "wss://chat.example.com/ws", "--text", kind=kind)
    (url, token, events), other = said
    assert (url, events) == ("ws://127.0.0.1:8000/ws", True)
    assert other == ("wss://chat.example.com/ws", "", False)
    if kind is AllSettings:  # for this server alone, the command signs a token itself
        assert jwt.decode(token, KEY, ["HS256"])["sub"] == "shell"
        run("talk", "/ws", "--token", "abc", kind=kind)
        assert said[-1] == ("ws://127.0.0.1:8000/ws", "abc", True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", [RealtimeSettings, AllSettings])
def test_it_says_why_it_cannot_talk(run: Run, kind: type[RealtimeSettings]) -> None:
    with pytest.raises(SystemExit, match="no connection to ws://127.0.0.1:1/ws: "):
        run("talk", "ws://127.0.0.1:1/ws", kind=kind)


@pytest.mark.parametrize("kind", [RealtimeSettings, AllSettings])
def test_it_checks_a_running_server(
    run: Run, capsys: pytest.CaptureFixture[str], kind: type[RealtimeSettings]
) -> None:
    with running(room_app()) as url:
        run("check", f"{url}/rooms/tea", "--silence", "0.01", kind=kind, rooms="/rooms")
        assert len(re.findall("^(?:ok|skipped) ", capsys.readouterr().out, re.MULTILINE)) == 4
        with pytest.raises(SystemExit, match="problems: 1"):
            run("check", f"{url}/nowhere", kind=kind)


@pytest.mark.parametrize("silence", ["0", "-1", "nan", "inf", "x", "86401"])
def test_a_time_that_is_none_is_refused(run: Run, silence: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("check", "/ws", "--silence", silence)


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, 130), (BrokenPipeError, 1)])
def test_an_interrupted_check_leaves_no_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], status: int
) -> None:
    def interrupt(*given: object) -> None:
        raise error

    monkeypatch.setattr("fastapi_realtime.check.ServerCheck.run", interrupt)
    monkeypatch.setattr(os, "dup2", lambda *given: None)
    with pytest.raises(SystemExit, match=str(status)):
        run("check", "/ws", kind=RealtimeSettings)


class RoomsInToken(PolicyFromClaims):
    """A policy by which a claim names the rooms that may be published to."""

    async def may_publish(self, identity: Any, room: str) -> bool:
        return room in identity.claims["rooms"]


def test_it_prints_keys_and_tokens(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("key") == []
    assert capsys.readouterr().out.startswith("APP_AUTH_KEY=")
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
    run("token", "zoe", "--minutes", "5", "--room", "tea", "--room", "team-*")
    claims = jwt.decode(capsys.readouterr().out.strip(), KEY, ["HS256"])
    assert (claims["sub"], claims["rooms"]) == ("zoe", ["tea", "team-*"])
    run("token", "zoe", kind=TokenSettings)
    assert "rooms" not in jwt.decode(capsys.readouterr().out.strip(), KEY, ["HS256"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["zoe", "--key", "nowhere.pem"], "nowhere.pem"),
        (["zoe", "--key", "/dev/null"], "not a regular file"),
        (["zoe\n"], "printable characters"),
        (["zoe", "--minutes", "inf"], "infinity"),
    ],
)
def test_a_token_that_cannot_be_made_is_explained(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
) -> None:
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
    with pytest.raises(SystemExit, match=complaint):
        run("token", *arguments)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("chat.example.com", "http://chat.example.com:8000"),
    ],
)
def test_a_server_is_reached_where_it_listens(host: str, url: str) -> None:
    assert command_line.server_url(RoomSettings(host=host)) == url


def test_a_server_on_a_free_port_cannot_be_found() -> None:
    with pytest.raises(command_line.CommandError, match="give a URL"):
        command_line.server_url(RoomSettings(port=0))
