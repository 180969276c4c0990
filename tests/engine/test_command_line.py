"""`run_command`, the command of a project."""

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
        (RealtimeSettings, []),
        (RoomSettings, ["publish"]),
        (TokenSettings, ["key", "token"]),
        (AllSettings, ["publish", "key", "token"]),
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
