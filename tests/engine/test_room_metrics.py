"""What is recorded of rooms once there is a meter provider."""

from fastapi_realtime.rooms import Rooms, RoomSettings
from fastapi_realtime.rooms.memory import MemoryBroker

from .metric_reader import values
from .room_app import connect_events, next_event, room_app, send
from .serving import Serve


def test_fan_out_is_timed(serve: Serve) -> None:
    url = f"{serve(room_app())}/rooms/tea"
    before = sum(point.count for point in values("websocket.rooms.fan_out.duration"))
    with connect_events(url) as ann, connect_events(url) as bob:
        send(ann, "a")
        next_event(bob, "message")
        (point,) = values("websocket.rooms.fan_out.duration")
        assert point.count > before
        assert point.max < 60


def test_it_is_told_whether_rooms_can_be_used(serve: Serve) -> None:
    assert values("websocket.rooms.ready") == []
    rooms = Rooms(RoomSettings())
    with connect_events(f"{serve(room_app(rooms))}/rooms/tea") as ann:
        next_event(ann, "joined")
        assert [point.value for point in values("websocket.rooms.ready")] == [1]
        assert isinstance(rooms.broker, MemoryBroker)
        rooms.broker.is_ready = False
        assert [point.value for point in values("websocket.rooms.ready")] == [0]
