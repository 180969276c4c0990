"""Turns of connections that share an event loop."""

from {{ cookiecutter.__package_name }}.realtime import fair_turn
from {{ cookiecutter.__package_name }}.realtime.fair_turn import FairTurn


def test_turn_is_over_after_so_many_messages_that_were_ready() -> None:
    turn = FairTurn()
    ends = [turn.is_over(asked=0, received=0) for _ in range(2 * fair_turn.MESSAGES_PER_TURN + 2)]
    assert [index for index, is_over in enumerate(ends) if is_over] == [
        fair_turn.MESSAGES_PER_TURN,
        2 * fair_turn.MESSAGES_PER_TURN + 1,
    ]


def test_turn_is_over_after_so_many_seconds() -> None:
    turn = FairTurn()
    half = fair_turn.SECONDS_PER_TURN * 0.6
    times = [half * number for number in range(5)]
    assert [turn.is_over(now, now) for now in times] == [False, False, True, False, False]


def test_message_that_is_waited_for_begins_a_turn() -> None:
    turn = FairTurn()
    for number in range(10 * fair_turn.MESSAGES_PER_TURN):
        assert not turn.is_over(asked=number, received=number + 0.001)
