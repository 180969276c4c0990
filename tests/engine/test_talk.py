"""`talk`, which sends lines to an endpoint and prints what arrives."""

import io
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi_realtime import Admitted, talk
from fastapi_realtime.talk import TalkError, is_secret

from .room_app import room_app, token_app
from .serving import Serve, realtime_app

Say = Callable[..., list[str]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Talk with these lines; return what is printed, and the exit status at its end."""

    def say(lines: str, url: str, *options: Any) -> list[str]:
        status = list[int]()
        monkeypatch.setattr(talk.os, "_exit", lambda code: status.append(int(code)))
        monkeypatch.setattr(talk, "ANSWER_SECONDS", 0.5)
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines.encode())))
        talk.talk(url, *options)
        return [*capsys.readouterr().out.splitlines(), *map(str, status)]

    return say


def test_lines_are_sent_and_answers_printed(serve: Serve, say: Say) -> None:
    app = realtime_app()

    @app.websocket("/echo")
    async def echo(connection: Admitted[str, str | bytes]) -> None:
        async for text in connection:
            await connection.send(text if text.isprintable() else text.encode())

    said = say("Hello\nZo\u00eb\n\u202e\n", f"{serve(app)}/echo")
    assert said == ["< Hello", "< Zo\u00eb", "< b'\\xe2\\x80\\xae'", "closed: 1000", "0"]


def test_lines_become_events_in_rooms(serve: Serve, say: Say) -> None:
    url = serve(token_app(zoe={"publish": ["tea"], "join": ["tea"]}))
    said = say("Hello\n", f"{url}/rooms/tea", "zoe", True)
    assert said[0].startswith('< {"type":"joined",')
    assert said[-2:] == ["closed: 1000", "0"]
    assert "error" not in "".join(said)


def test_a_close_for_a_reason_is_a_failure(serve: Serve, say: Say) -> None:
    app = realtime_app()

    @app.websocket("/close")
    async def close(connection: Admitted) -> None:
        await connection.close(4000, "no more")

    assert say("", f"{serve(app)}/close") == ["closed: 4000 no more", "1"]


def test_what_cannot_be_opened_is_said(serve: Serve, say: Say) -> None:
    url = serve(room_app())
    with pytest.raises(TalkError, match='^refused: 404 {"detail":"Not Found"}$'):
        say("", f"{url}/nowhere")
    for wrong in ("ws://127.0.0.1:1/ws", "http://127.0.0.1/ws", "ws://[/ws"):
        with pytest.raises(TalkError, match="^no connection to "):
            say("", wrong)


def test_a_proxy_is_not_asked_for_the_own_machine(
    serve: Serve, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "ws_proxy", "socks_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    url = serve(token_app(zoe={}))
    assert say("", f"{url}/rooms/lobby", "zoe", True)[-1] == "0"


def test_a_proxy_that_cannot_be_used_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*arguments: object, **options: object) -> None:
        raise ImportError("connecting through a SOCKS proxy requires python-socks")

    monkeypatch.setattr(talk, "connect", lacks)
    with pytest.raises(TalkError, match="requires python-socks"):
        talk.talk("ws://chat.example.com/ws")


def test_a_reason_cannot_control_the_terminal(serve: Serve, say: Say) -> None:
    app = realtime_app()

    @app.websocket("/close")
    async def close(connection: Admitted) -> None:
        await connection.close(4000, "\x1b[31m")

    assert say("", f"{serve(app)}/close") == ["closed: 4000 '\\x1b[31m'", "1"]


def test_nobody_needs_to_read_what_is_printed(
    serve: Serve, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*texts: object, flush: bool) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(talk, "print", broken, raising=False)
    assert say("Hello\n", f"{serve(room_app())}/rooms/lobby", "", True) == ["0"]


def test_ctrl_c_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(talk, "connect", interrupt)
    talk.talk("ws://127.0.0.1/ws")


@pytest.mark.parametrize("url", ["ws://chat.example.com/ws", "ws://192.0.2.1/ws", "ws:///ws"])
def test_a_token_is_not_sent_in_clear(url: str) -> None:
    with pytest.raises(TalkError, match="use wss://"):
        talk.talk(url, "a.b.c")


@pytest.mark.parametrize(
    "url", ["wss://chat.example.com/ws", "ws://localhost/ws", "ws://127.0.0.2:80/", "ws://[::1]/"]
)
def test_a_token_is_sent_where_nobody_can_read_it(url: str) -> None:
    assert is_secret(url)
