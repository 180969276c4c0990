"""The history of a room."""

import pytest
from fastapi_realtime.rooms.memory import History


def history_of(*frames: bytes) -> tuple[History, list[str]]:
    """Return a history of these messages, and their ids."""
    history, ids = History(), []
    for frame in frames:
        ids.append(history.next_id)
        history.offset += 1
        history.append(frame)
    return history, ids


def test_what_came_after_a_message_is_replayed() -> None:
    history, (first, second, third) = history_of(b"a", b"b", b"c")
    assert history.since(first)[:4] == ([b"b", b"c"], 3, True, third)
    assert history.since(second)[:4] == ([b"c"], 3, True, third)
    assert history.since(third)[:4] == ([], 0, True, third)


def test_the_position_before_the_first_message_can_be_resumed_from() -> None:
    history = History()
    position = history.position
    assert history.since(position)[:4] == ([], 0, True, position)
    id = history.next_id
    history.offset += 1
    history.append(b"a")
    assert history.since(position)[:4] == ([b"a"], 1, True, id)


def test_a_message_that_is_not_kept_any_more_makes_the_replay_incomplete() -> None:
    history, (first, second, third) = history_of(b"a", b"b", b"c")
    history.drop_oldest()
    assert history.since(first)[:4] == ([b"b", b"c"], 3, True, third)
    history.drop_oldest()
    assert history.since(first)[:4] == ([b"c"], 3, False, third)
    assert history.since(second)[:4] == ([b"c"], 3, True, third)


@pytest.mark.parametrize("position", ["", "x", "-", "EPOCH-", "EPOCH-9", "EPOCH--1", "EPOCH-²"])
def test_after_an_unknown_position_all_that_is_kept_is_replayed(position: str) -> None:
    history, (id,) = history_of(b"a")
    assert history.since(position.replace("EPOCH", history.epoch))[:4] == ([b"a"], 1, False, id)


def test_a_ref_is_found_as_long_as_its_message_is_kept() -> None:
    history = History()
    empty = history.size
    id = history.next_id
    history.offset += 1
    history.append(b"a", "r1")
    assert (history.find("r1"), history.find("r2")) == (id, "")
    history.drop_oldest()
    assert history.find("r1") == ""
    assert history.size == empty


def test_refs_count_for_the_size() -> None:
    with_ref, without = History(), History()
    with_ref.append(b"a", "r" * 255)
    without.append(b"a")
    assert with_ref.size >= without.size + 255


def test_its_size_grows_and_shrinks_with_its_messages() -> None:
    history, _ = history_of()
    empty = history.size
    history.append(b"x" * 1000)
    assert history.size > empty + 1000
    assert history.drop_oldest() > 1000
    assert history.size == empty
    assert len(history) == 0
