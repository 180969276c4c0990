"""Rooms over Redis, as their members see them."""

import json
import logging
import re

import pytest
from fastapi import FastAPI
from fastapi_realtime import load_settings
from fastapi_realtime.rooms.memory import MemoryBroker
from fastapi_realtime.rooms.redis import RedisSettings, connection, publisher, reader
from fastapi_realtime.settings import (
    SettingsError,
)
from pydantic import ValidationError
from starlette.testclient import TestClient, WebSocketDenialResponse
from websockets.exceptions import InvalidStatus

from ..redis_server import RedisServer, rooms_at
from ..room_app import connect_events, next_event, request, room_app, send
from ..serving import Serve, connect, own_records, receive_all


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing take long."""
    monkeypatch.setattr(reader, "PATIENCE", 0.5)
    monkeypatch.setattr(publisher, "PATIENCE", 0.2)
    monkeypatch.setattr(connection, "PATIENCE", 0.5)


def app_at(url: str) -> FastAPI:
    """An application with rooms in this Redis."""
    app = room_app(rooms_at(url))

    @app.get("/ready")
    async def ready() -> bool:
        is_ready: bool = app.state.realtime.is_ready
        return is_ready

    return app


def test_members_of_two_processes_talk(serve: Serve, server: RedisServer) -> None:
    urls = [f"{serve(app_at(server.url))}/rooms/tea" for _ in range(2)]
    with connect_events(urls[0]) as ann, connect_events(urls[1]) as bob:
        position = next_event(bob, "joined")["id"]
        send(ann, {"a": 1}, ref="r1")
        seen = next_event(bob, "message")
        assert seen["data"] == {"a": 1}
        assert next_event(ann, "accepted")["id"] == seen["id"]
        send(bob, "again", ref="r1")
        assert next_event(bob, "accepted")["id"] == seen["id"]
        with connect_events(f"{urls[0]}?since={position}") as carol:
            assert next_event(carol, "message") == seen
            assert next_event(carol, "resumed")["id"] == seen["id"]


def test_while_redis_is_away_sockets_stay_open_and_everything_is_refused_aloud(
    serve: Serve, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    base = serve(app_at(server.url))
    url, http = f"{base}/rooms/tea", base.replace("ws:", "http:")
    with connect_events(url) as ann, connect(url) as bob:
        server.stop()
        while request(f"{http}/ready") == (200, True):
            pass
        send(ann, "lost", ref="r1")
        error = next_event(ann, "error")
        assert (error["code"], error["ref"]) == ("unavailable", "r1")
        bob.send("lost")
        assert json.loads(bob.recv(timeout=10))["error"]["code"] == "unavailable"
        assert request(f"{http}/rooms/tea", b"1")[0] == 503
        with pytest.raises(InvalidStatus, match="503"):
            connect(f"{base}/rooms/another")
        with connect_events(f"{url}?since=0-0") as carol:
            assert receive_all(carol)[1] == 1013
        server.start()
        while request(f"{http}/ready") == (200, False):
            pass
        send(ann, "heard", ref="r1")
        assert bob.recv(timeout=10) == "New message: heard"
    lines = [each.message for each in own_records(caplog) if ".redis." in each.name]
    assert lines == ["Redis is not available", "Redis is available again"]


def test_an_application_starts_without_redis(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with TestClient(app_at("redis://:secret@127.0.0.1:1/0")) as client:
        assert client.get("/ready").json() is False
        with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/rooms/tea"):
            pass
    assert "secret" not in caplog.text


def test_in_memory_there_is_no_redis(serve: Serve) -> None:
    rooms = rooms_at("memory://")
    assert isinstance(rooms.broker, MemoryBroker)
    with connect_events(f"{serve(room_app(rooms))}/rooms/tea") as ann:
        send(ann, "a", ref="r1")
        next_event(ann, "accepted")
        ann.close()
        assert receive_all(ann)[1] == 1000


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:6379",
        "http://127.0.0.1",
        "redis://:secret@host:port",
        "redis://:se/cret@host",
        "redis://:se#cret@host",
        "redis://host#1",
        "redis://host:0",
        "unix://run/redis.sock",
    ],
)
def test_a_url_that_is_none_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("APP_BROKER_URL", url)
    with pytest.raises(SettingsError) as refusal:
        load_settings(RedisSettings)
    assert "APP_BROKER_URL: a broker is redis://[[user]:password@]host" in str(refusal.value)
    assert url not in str(refusal.value)
    with pytest.raises(ValidationError):
        RedisSettings.model_validate({"broker_url": url})


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("redis://host/cache", "the database must be a number"),
        ("redis://host/0,redis://other/0", "the database must be a number"),
        ("redis://host/0/1", "the database must be a number"),
        ("redis://host/-1", "the database must be a number"),
        ("redis://host/1?db=2", "an option, or the database, is there twice"),
        ("redis://host?db=1&db=2", "an option, or the database, is there twice"),
        ("redis://host?db=", "the option db does not exist here"),
        ("redis://host?db=x", "the option db does not exist here"),
        ("redis://host?max_connections=10", "the option max_connections does not exist here"),
        ("redis://host?ssl_cert_reqs=none", "the option ssl_cert_reqs does not exist here"),
        ("rediss://host?ssl_cert_reqs=CERT_NONE", "the option ssl_cert_reqs does not exist here"),
        ("redis://:pass?se=cret@host", "a broker is redis://"),
        ("redis://host?secret=1", "an option does not exist here"),
    ],
)
def test_what_redis_py_would_ignore_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str, rule: str
) -> None:
    monkeypatch.setenv("APP_BROKER_URL", url)
    with pytest.raises(SettingsError, match=re.escape(rule)) as refusal:
        load_settings(RedisSettings)
    assert "cret" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1",
        "redis://127.0.0.1/",
        "redis://host?db=3&health_check_interval=10",
        "rediss://user:secret@host:6380/1",
        "rediss://user:secret@host/1?ssl_cert_reqs=none",
        "rediss://host?ssl_certfile=client.pem&ssl_keyfile=client.key",
        "unix:///run/redis.sock?db=2",
        "unix://user:secret@/run/redis.sock",
    ],
)
def test_the_password_is_in_no_text_of_the_settings(url: str) -> None:
    settings = RedisSettings.model_validate({"broker_url": url})
    assert settings.broker_url.get_secret_value() == url
    assert "secret" not in repr(settings)
