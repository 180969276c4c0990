"""Parameters of endpoints with rooms, as a project's broadcast endpoint takes them."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_realtime.rooms import (
    RoomConnection,
    RoomInPath,
    RoomOrLobby,
    Rooms,
    RoomSettings,
    SenderName,
    Since,
)
from starlette.testclient import WebSocketDenialResponse

from .serving import realtime_app


@pytest.fixture
def client() -> Iterator[TestClient]:
    """A client of an application that sends back its parameters."""
    settings = RoomSettings()
    app: FastAPI = realtime_app(settings, services=[Rooms(settings)])

    @app.websocket("/talk/{room:path}")
    @app.websocket("/talk")
    async def talk(
        connection: RoomConnection, room: RoomOrLobby, sender: SenderName, since: Since = ""
    ) -> None:
        await connection.send_message(f"{room} {sender} {since}")

    @app.get("/talk/{room:path}")
    async def get(room: RoomInPath) -> str:
        return room

    with TestClient(app) as client:
        yield client


def first(client: TestClient, path: str) -> str:
    """Return the first message."""
    with client.websocket_connect(path, ["events.v1"]) as websocket:
        assert websocket.accepted_subprotocol == "events.v1"
        return websocket.receive_text()


def test_the_room_is_in_the_path_or_the_lobby(client: TestClient) -> None:
    assert first(client, "/talk/tea/green?name=zoe&since=x-1") == "tea/green zoe x-1"
    assert first(client, "/talk?name=zoe") == "lobby zoe "
    assert client.get("/talk/tea/green").json() == "tea/green"


def test_no_path_means_the_lobby_by_mistake() -> None:
    settings = RoomSettings()
    app: FastAPI = realtime_app(settings, services=[Rooms(settings)])

    @app.websocket("/sales/{auction}")
    async def sales(connection: RoomConnection, room: RoomOrLobby) -> None:
        raise AssertionError

    expected = pytest.raises(
        RuntimeError, match="no parameter of /sales/{auction} is called `room`"
    )
    with TestClient(app) as client, expected, client.websocket_connect("/sales/7"):
        pass


def test_a_client_without_a_name_gets_one(client: TestClient) -> None:
    names = {first(client, "/talk").split()[1] for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("guest-") for name in names)


@pytest.mark.parametrize(
    ("path", "detail"),
    [(f"/talk/{'r' * 261}", "room: 1 to 260"), (f"/talk?name={'n' * 65}", "name: at most 64")],
)
def test_an_invalid_name_is_rejected_before_the_handshake(
    client: TestClient, path: str, detail: str
) -> None:
    with pytest.raises(WebSocketDenialResponse) as refusal, client.websocket_connect(path):
        pass
    assert refusal.value.status_code == 422
    assert refusal.value.json()["detail"].startswith(detail)
    assert client.get(f"/talk/{'r' * 261}").status_code == 422
