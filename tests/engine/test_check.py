"""`check`, which says what is wrong between a deployed server and its clients."""

import asyncio
import socket
import threading
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi_realtime import Admitted, RealtimeSettings, check
from fastapi_realtime.check import ServerCheck
from fastapi_realtime.rooms import Rooms, RoomsDep, RoomSettings
from fastapi_realtime.testing import running
from websockets.sync.client import ClientConnection

from .room_app import EventsAdmitted, room_app, token_app
from .serving import NO_RATE_LIMIT, Serve, realtime_app


def run(url: str, token: str = "", silence: float = 0, rooms: str = "/rooms") -> dict[str, str]:
    """Check a server; return what is said of each check, by its name."""
    lines = list[str]()
    problems = ServerCheck(url, token, rooms, lines.append).run(silence, restart=False)
    said = dict(line.split(": ", 1) for line in lines if not line.startswith("..."))
    assert problems == sum(name.startswith("PROBLEM ") for name in said)
    return {name.split(maxsplit=1)[1]: f"{name.split()[0]} {text}" for name, text in said.items()}


def test_a_server_that_works_has_no_problem(serve: Serve) -> None:
    said = run(f"{serve(room_app())}/rooms/tea?x=y", silence=0.1)
    assert said.pop("handshake").startswith("ok 101 after ")
    assert said == {
        "foreign origin": "ok refused with 403",
        "resume": "ok what was missed arrived, 4 times of 4",
        "silence": "ok open after 0.1 seconds, and a ping was answered",
    }


def test_members_with_tokens_can_be_checked(serve: Serve) -> None:
    url = f"{serve(token_app())}/rooms/lobby"
    said = run(url, "zoe")
    assert said["foreign origin"] == "ok refused with 403"
    assert said["resume"] == "skipped 403; it needs a token that opens the rooms check-*"
    assert run(url) == {"handshake": f"PROBLEM 401: {check.ADVICE[401]}"}
    assert "use wss://" in run("ws://chat.example.com/rooms/lobby", "zoe")["handshake"]


@pytest.mark.parametrize("status", [403, 404, 405, 418, 429, 503])
def test_a_refusal_says_what_to_change(serve: Serve, status: int) -> None:
    app = realtime_app()

    @app.websocket("/refuse")
    async def refuse(connection: Admitted) -> None:
        raise HTTPException(status)

    advice = check.ADVICE.get(status, '{"detail":"I\'m a Teapot"}')
    assert run(f"{serve(app)}/refuse") == {"handshake": f"PROBLEM {status}: {advice}"}


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1/ws", "http://127.0.0.1/ws", "ws://[/ws"])
def test_a_server_that_is_not_there_is_a_problem(url: str) -> None:
    assert run(url)["handshake"].startswith("PROBLEM ")


def test_a_server_that_refuses_all_but_the_first_is_a_problem(serve: Serve) -> None:
    app, seen = realtime_app(), list[str]()

    @app.websocket("/rooms/{room}")
    async def once(connection: Admitted, room: str) -> None:
        seen.append(room)
        if len(seen) > 1:
            raise HTTPException(503)
        await connection.receive()

    said = run(f"{serve(app)}/rooms/tea")
    assert said.pop("handshake").startswith("ok ")
    full = f"PROBLEM 503: {check.ADVICE[503]}"
    assert said == {"foreign origin": "ok refused with 403", "resume": full, "silence": full}


def test_a_server_that_goes_away_is_a_problem() -> None:
    lines = list[str]()
    with ExitStack() as server, socket.create_server(("127.0.0.1", 0)) as listener:
        url = server.enter_context(running(room_app(), listener))

        def show(line: str) -> None:
            lines.append(line)
            listener.close()
            server.close()

        assert ServerCheck(f"{url}/rooms/tea", "", "/rooms", show).run(0, restart=True) == 4
    names = ["foreign origin", "resume", "silence", "restart"]
    assert [line.split(": ")[0] for line in lines[1:]] == [f"PROBLEM  {name}" for name in names]


def test_foreign_pages_are_a_problem(serve: Serve) -> None:
    settings = RoomSettings.model_validate(NO_RATE_LIMIT | {"allowed_origins": "*"})
    said = run(f"{serve(room_app(Rooms(settings), allowed_origins='*'))}/rooms/tea")
    assert said["foreign origin"].startswith("PROBLEM any web page may connect")


def test_another_refusal_of_a_foreign_page_is_a_problem(serve: Serve) -> None:
    app = realtime_app(RealtimeSettings(allowed_origins="*"))

    @app.websocket("/ws")
    async def ws(connection: Admitted) -> None:
        if connection.websocket.headers["origin"] == check.FOREIGN:
            raise HTTPException(429)
        await connection.receive()

    said = run(f"{serve(app)}/ws", rooms="")
    assert said["foreign origin"] == "PROBLEM answered with 429, not 403"
    assert said["resume"] == "skipped this is not the URL of a room"


def test_processes_with_rooms_of_their_own_are_a_problem(serve: Serve) -> None:
    said = run(f"{serve(room_app(history_length=0))}/rooms/tea")
    assert said["resume"].startswith("PROBLEM a message is missing")


def test_a_room_that_does_not_resume_is_a_problem(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "SECONDS", 0.2)
    settings = RoomSettings.model_validate(NO_RATE_LIMIT)
    app = realtime_app(settings, services=[Rooms(settings)])

    @app.websocket("/rooms/{room}")
    async def forgetful(connection: EventsAdmitted, rooms: RoomsDep, room: str, name: str = "x"):
        async with rooms.join(connection, room, name) as member:
            async for message in member:
                await member.publish(message.data, message.ref)

    said = run(f"{serve(app)}/rooms/tea")
    assert said["resume"] == "PROBLEM no message or gap or resumed after 0.2 seconds"


def test_a_room_that_refuses_messages_is_a_problem(serve: Serve) -> None:
    said = run(f"{serve(token_app(zoe={'join': AnyRoom()}))}/rooms/tea", "zoe")
    assert said["resume"].startswith(
        "PROBLEM the server sent {'type': 'error', 'code': 'forbidden'"
    )


@pytest.mark.parametrize("text", ["[1]", '{"a":1}', "\x1b", '{"type":"joined"}'])
def test_another_server_is_a_problem_in_one_line(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(check, "SECONDS", 0.2)
    app = realtime_app()

    @app.websocket("/rooms/{room}")
    async def other(connection: Admitted[str, str]) -> None:
        await connection.send(text)
        await connection.wait_closed()

    said = run(f"{serve(app)}/rooms/tea")
    assert said["resume"].startswith("PROBLEM ")
    assert said["resume"].isprintable()


def test_what_others_say_in_a_room_is_no_silence(serve: Serve) -> None:
    app = room_app()
    rooms = app.state.realtime.service(Rooms)
    seen = list[str]()
    enter = rooms.broker.enter

    async def note(room: str, address: str = "") -> str:
        seen.append(room)
        return await enter(room, address)

    rooms.broker.enter = note
    said = run(f"{serve(app)}/rooms/lobby")
    assert said["silence"].startswith("ok ")
    assert [room for room in seen if room == "lobby"] == ["lobby"]


def test_a_user_in_the_url_is_no_part_of_the_origin(serve: Serve) -> None:
    url = serve(room_app()).replace("//", "//zoe:secret@")
    assert run(f"{url}/rooms/tea")["handshake"].startswith("ok ")


class AnyRoom:
    """All rooms."""

    def __contains__(self, room: str) -> bool:
        return True


@pytest.mark.parametrize("code", [1001, 1006, 4001])
def test_silence_that_ends_a_connection_is_a_problem(serve: Serve, code: int) -> None:
    app = realtime_app()

    @app.websocket("/short")
    async def short(connection: Admitted) -> None:
        await connection.send("welcome")
        await asyncio.sleep(0.2)
        if code == 1006:
            connection.abort()
        else:
            await connection.close(code)

    said = run(f"{serve(app)}/short", silence=10)
    expected = {
        1001: "closed with 1001: ",
        1006: "closed with 1006; something",
        4001: "closed with 4001: a code",
    }
    assert said["silence"].startswith(f"PROBLEM {expected[code]}")


def test_a_ping_without_an_answer_is_a_problem(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClientConnection, "ping", lambda self: threading.Event())
    monkeypatch.setattr(check, "SECONDS", 0.2)
    said = run(f"{serve(room_app())}/rooms/tea")
    assert said["silence"] == "PROBLEM no answer to a ping in 0.2 seconds"


@pytest.mark.parametrize(
    ("event", "result"),
    [
        ("restart", "ok       restart: closed with 1012, and back after "),
        ("stop", "PROBLEM  restart: not back after 0.5 seconds"),
        ("crash", "PROBLEM  restart: closed with 1006, not 1012"),
        ("nothing", "skipped  restart: the server was not restarted"),
    ],
)
def test_a_restart_is_watched(monkeypatch: pytest.MonkeyPatch, event: str, result: str) -> None:
    app = room_app()
    crashes = list[Any]()

    @app.websocket("/ws")
    async def ws(connection: Admitted) -> None:
        await connection.accept()
        loop = asyncio.get_running_loop()
        crashes.append(lambda: loop.call_soon_threadsafe(connection.abort))
        await connection.wait_closed()

    listener = socket.create_server(("127.0.0.1", 0))
    lines = list[str]()
    with listener, ExitStack() as second, ExitStack() as first:
        again = listener.dup()
        second.callback(again.close)
        url = first.enter_context(running(app, listener))

        def show(line: str) -> None:
            lines.append(line)
            if "restart the server now" not in line:
                return
            if event in ("restart", "stop"):
                first.close()
            if event == "restart":
                second.enter_context(running(room_app(), again))
            if event == "crash":
                crashes[-1]()

        if event != "restart":
            monkeypatch.setattr(check, "RESTART_SECONDS", 0.5)
        path = "/rooms/tea" if event == "restart" else "/ws"
        again.close() if event == "stop" else None
        ServerCheck(f"{url}{path}", "", "/rooms", show).run(0, restart=True)
    assert lines[-1].startswith(result)
