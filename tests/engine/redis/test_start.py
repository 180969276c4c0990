"""Redis that cannot be used at the start."""

import sys

import pytest
from fastapi_realtime import command_line, run_command
from fastapi_realtime.rooms import BrokerUnavailable
from fastapi_realtime.rooms.redis import RedisSettings, publisher, servers

from ..redis_server import RedisServer, running_redis
from .talk import Start, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("unix://:secret@{path}", "invalid username-password pair"),
        ("unix://{path}", "Authentication required"),
        ("unix://{path}.not", "No such file"),
        ("redis://:secret@127.0.0.1:1/0", "Connect call failed"),
    ],
)
async def test_a_redis_that_cannot_be_used_at_the_start_is_one_clear_line(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    url: str,
    reason: str,
) -> None:
    monkeypatch.setattr(publisher, "PATIENCE", 0.1)
    with running_redis("--requirepass", "another") as server:
        process = await start(url.format(path=server.url.removeprefix("unix://")))
        with pytest.raises(BrokerUnavailable):
            await process.publish("a")
    (record,) = caplog.records
    assert record.message == "Redis is not available"
    assert reason in vars(record)["reason"]
    assert "secret" not in str(vars(record))


@pytest.mark.parametrize("right", ["info", "script", "subscribe"])
async def test_a_right_that_is_missing_is_one_clear_line(
    server: RedisServer,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    right: str,
) -> None:
    server.call("ACL", "SETUSER", "chat", "on", ">secret", "~*", "&*", "+@all", f"-{right}")
    process = await start(server.url.replace("unix://", "unix://chat:secret@"))
    await until(lambda: caplog.records)
    assert right in vars(caplog.records[0])["reason"]
    assert not process.broker.is_ready


async def test_a_redis_that_is_too_old_is_refused_with_both_versions(
    server: RedisServer,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(servers, "OLDEST", (99, 1))
    process = await start(server.url)
    await until(lambda: caplog.records)
    assert "is too old, 99.1 is needed" in vars(caplog.records[0])["reason"]
    assert not process.broker.is_ready


def run(monkeypatch: pytest.MonkeyPatch, url: str) -> list[str]:
    """Run the command of an application with rooms at a URL; return what it serves."""
    served: list[str] = []
    monkeypatch.setenv("APP_BROKER_URL", url)
    monkeypatch.setattr(
        command_line, "serve", lambda application, *given: served.append(application)
    )
    monkeypatch.setattr(sys, "argv", ["shop"])
    run_command("shop.main:app", RedisSettings)
    return served


def test_a_database_that_redis_does_not_have_ends_the_command_with_a_sentence(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        SystemExit, match="APP_BROKER_URL: Redis answers that it has no database 99"
    ):
        run(monkeypatch, f"{server.url}?db=99")


@pytest.mark.parametrize("url", ["{url}?db=15", "{url}.not", "redis://127.0.0.1:1/99", "memory://"])
def test_a_redis_that_works_or_is_away_does_not_end_the_command(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    assert run(monkeypatch, url.format(url=server.url)) == ["shop.main:app"]
