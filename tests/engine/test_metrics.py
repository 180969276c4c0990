"""What is recorded of connections once there is a meter provider."""

from collections import Counter

import pytest
from fastapi import HTTPException
from fastapi_realtime import Admitted
from fastapi_realtime.server.metrics import (
    BOUNDS,
    OTHER_CODE,
)
from websockets.exceptions import InvalidStatus

from .metric_reader import points, values
from .serving import Serve, connect, realtime_app, receive_all

ROUTE = "/measured/{name}"


@pytest.fixture
def url(serve_both_ways: Serve) -> str:
    """Where a server sends back what it gets, in capitals."""
    app = realtime_app()

    @app.websocket(ROUTE)
    async def capitals(connection: Admitted[str, str], name: str) -> None:
        if name == "nobody":
            raise HTTPException(418)
        async for text in connection:
            await connection.send(text.upper())

    return f"{serve_both_ways(app)}/measured/"


def test_connections_and_what_they_carry_are_counted_by_route(url: str) -> None:
    before = totals()
    with connect(f"{url}zoe") as zoe, connect(f"{url}ann") as ann:
        for client in (zoe, ann):
            client.send("hello")
            assert client.recv(timeout=10) == "HELLO"
        (active,) = values("websocket.server.active_connections", http_route=ROUTE)
        assert active.value == 2
        (unsent,) = values("websocket.server.unsent", http_route=ROUTE)
        assert unsent.value == 0
        ann.close(4000)
        while values("websocket.server.active_connections", http_route=ROUTE)[0].value > 1:
            pass
        zoe.close()
        while values("websocket.server.active_connections", http_route=ROUTE)[0].value:
            pass
    new = totals()
    new.subtract(before)
    assert new["websocket.server.messages", "receive"] == 2
    assert new["websocket.server.messages", "transmit"] == 2
    assert new["websocket.server.io", "receive"] == 10
    assert new["websocket.server.io", "transmit"] >= 10
    (duration,) = values(
        "websocket.server.connection.duration", http_route=ROUTE, websocket_close_code=OTHER_CODE
    )
    assert duration.count >= 1
    assert duration.explicit_bounds == BOUNDS


def totals() -> Counter[tuple[str, str]]:
    """Return the sums of our route, by metric and direction."""
    found = [
        (name, point)
        for name, point in points()
        if name in ("websocket.server.messages", "websocket.server.io")
        and point.attributes["http.route"] == ROUTE
    ]
    return Counter(
        {(name, point.attributes["network.io.direction"]): point.value for name, point in found}
    )


@pytest.mark.parametrize(
    ("sent", "recorded"), [(1000, 1000), (1001, 1001), (3000, OTHER_CODE), (4999, OTHER_CODE)]
)
def test_codes_that_clients_invent_are_recorded_as_one(url: str, sent: int, recorded: int) -> None:
    before = durations_by_code()
    with connect(f"{url}zoe") as client:
        client.close(sent)
    while not (new := durations_by_code() - before):
        pass
    assert new == {recorded: 1}


def test_codes_of_the_endpoint_are_recorded_as_they_are(serve_both_ways: Serve) -> None:
    app = realtime_app()

    @app.websocket(ROUTE)
    async def full(connection: Admitted) -> None:
        await connection.close(4010, "the table is full")

    before = durations_by_code()
    with connect(f"{serve_both_ways(app)}/measured/zoe") as client:
        assert receive_all(client) == ([], 4010)
    while not (new := durations_by_code() - before):
        pass
    assert new == {4010: 1}


def test_a_code_of_ours_and_of_a_client_are_one_series(serve: Serve) -> None:
    app = realtime_app()

    @app.websocket(ROUTE)
    async def ends(connection: Admitted, name: str) -> None:
        await connection.accept()
        if name == "zoe":
            await connection.receive()

    url = f"{serve(app)}/measured/"
    before = durations_by_code()
    with connect(f"{url}zoe") as zoe, connect(f"{url}ann") as ann:
        zoe.close(1000)
        assert receive_all(ann) == ([], 1000)
    while (durations_by_code() - before).total() < 2:
        pass
    assert durations_by_code() - before == {1000: 2}
    codes = [
        point.attributes["websocket.close.code"]
        for point in values("websocket.server.connection.duration", http_route=ROUTE)
    ]
    assert {type(code) for code in codes} == {int}
    assert len(codes) == len({*codes})


def durations_by_code() -> Counter[int]:
    """Return how many connections to our route have ended, by their close codes."""
    ended = values("websocket.server.connection.duration", http_route=ROUTE)
    return Counter({point.attributes["websocket.close.code"]: point.count for point in ended})


def test_refused_handshakes_are_counted_by_status(url: str) -> None:
    with pytest.raises(InvalidStatus):
        connect(f"{url}nobody")
    (point,) = values("websocket.server.refused_handshakes", http_route=ROUTE)
    status = point.attributes["http.response.status_code"]
    assert (status, type(status)) == (418, int)
