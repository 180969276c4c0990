"""The limit of open files is raised if possible, and WebSockets leave a reserve of it."""

import logging
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from fastapi_realtime import limits
from starlette.testclient import WebSocketDenialResponse

from .serving import echo_app, warning


class Limits(SimpleNamespace):
    """A `resource` module with limits that tests set."""

    RLIMIT_NOFILE = 7
    RLIM_INFINITY = -1

    def getrlimit(self, which: int) -> tuple[int, int]:
        return self.soft, self.hard

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        if limits[0] > self.most:
            raise ValueError("current limit exceeds maximum limit")
        self.soft, self.hard = limits


@pytest.mark.parametrize(
    ("soft", "hard", "most", "wanted", "fitting", "soft_then"),
    [
        (256, 4096, 4096, 1000, 1000, 1100),
        (2048, 4096, 4096, 1000, 1000, 2048),
        (-1, -1, 10_000, 1000, 1000, -1),
        (256, -1, 10_000, 1000, 1000, 1100),
        (256, -1, 1000, 1000, 156, 256),
        (256, 1000, 1000, 1000, 900, 1000),
        (64, 64, 64, 1000, 32, 64),
    ],
)
def test_connections_that_fit_leave_a_reserve_of_the_limit(
    monkeypatch: pytest.MonkeyPatch,
    soft: int,
    hard: int,
    most: int,
    wanted: int,
    fitting: int,
    soft_then: int,
) -> None:
    machine = Limits(soft=soft, hard=hard, most=most)
    monkeypatch.setattr(limits, "resource", machine)
    assert limits.connections_that_fit(wanted) == fitting
    assert machine.soft == soft_then


def test_all_connections_fit_where_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "resource", None)
    assert limits.connections_that_fit(1_000_000) == 1_000_000


def test_low_limit_is_warned_of_and_limits_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "resource", Limits(soft=4, hard=4, most=4))
    app = echo_app(max_connections=5)

    @app.get("/http")
    async def http() -> None:
        pass

    with TestClient(app) as client:
        text = warning(caplog)["message"]
        for part in ("limit of 4 ", "room for 2 ", "APP_MAX_CONNECTIONS is 5", "to 105", "ulimit"):
            assert part in text
        caplog.set_level(logging.CRITICAL)
        with client.websocket_connect("/all"), client.websocket_connect("/all"):
            with (
                pytest.raises(WebSocketDenialResponse) as refusal,
                client.websocket_connect("/all"),
            ):
                pass
            assert refusal.value.status_code == 503
            assert client.get("/http").status_code == 200
