"""The limit on joins and requests of one address."""

from math import inf

import pytest
from fastapi_realtime import limits
from fastapi_realtime.limits import (
    KeyedLimiter,
)


def test_a_key_may_do_so_much_at_once_and_so_much_a_second() -> None:
    now = 1000.0
    limiter = KeyedLimiter(rate=0.5, burst=5, clock=lambda: now)
    assert [limiter.allow("192.0.2.1") for _ in range(6)] == [True] * 5 + [False]
    assert limiter.allow("192.0.2.2")
    now += 2
    assert [limiter.allow("192.0.2.1") for _ in range(2)] == [True, False]


def test_what_costs_more_counts_more() -> None:
    limiter = KeyedLimiter(rate=0.1, burst=5, clock=lambda: 1000.0)
    assert [limiter.allow("zoe", 3) for _ in range(2)] == [True, False]
    assert limiter.allow("zoe", 2)
    assert limiter.allow("bob", 100)


def test_what_is_counted_may_be_more_than_what_is_left() -> None:
    now = 1000.0
    limiter = KeyedLimiter(rate=0.5, burst=5, clock=lambda: now)
    limiter.spend("zoe", 8)
    assert limiter.left("zoe") == -3
    assert limiter.left("bob") == 5
    now += 8
    assert [limiter.allow("zoe") for _ in range(2)] == [True, False]


def test_with_an_infinite_rate_everything_is_allowed() -> None:
    limiter = KeyedLimiter(rate=inf, burst=inf, clock=lambda: 1000.0)
    assert all(limiter.allow("zoe", 10) for _ in range(100))


def test_only_the_latest_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_KEYS", 2)
    limiter = KeyedLimiter(rate=0.1, burst=1, clock=lambda: 1000.0)
    for key in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        assert limiter.allow(key)
    assert limiter.allow("192.0.2.1")
    assert not limiter.allow("192.0.2.3")
