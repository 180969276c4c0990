"""The limit on the messages of one client."""

from math import inf

from fastapi_realtime.limits import (
    COUNTED_BYTES,
    RateLimiter,
)


def test_burst_is_allowed_and_the_next_message_is_not() -> None:
    limiter = RateLimiter(rate=1, burst=3, now=0)
    assert [limiter.allow(0) for _ in range(4)] == [True, True, True, False]


def test_allowance_returns_at_the_rate_and_no_further_than_the_burst() -> None:
    limiter = RateLimiter(rate=10, burst=2, now=0)
    assert [limiter.allow(0) for _ in range(3)] == [True, True, False]
    assert not limiter.allow(0.1)  # a refused message counts, too
    assert limiter.allow(0.4)
    assert [limiter.allow(100) for _ in range(3)] == [True, True, False]


def test_burst_of_refused_messages_is_a_flood() -> None:
    limiter = RateLimiter(rate=1, burst=3, now=0)
    flooded = []
    for _ in range(7):
        limiter.allow(0)
        flooded.append(limiter.is_flooded)
    assert flooded == 6 * [False] + [True]


def test_long_messages_count_more_but_the_longest_one_always_fits() -> None:
    limiter = RateLimiter(rate=1, burst=8, now=0)
    assert limiter.allow(0, COUNTED_BYTES - 1)
    assert [limiter.allow(0, 3 * COUNTED_BYTES) for _ in range(2)] == [True, False]
    limiter = RateLimiter(rate=1, burst=2, now=0)
    assert [limiter.allow(0, 100 * COUNTED_BYTES) for _ in range(2)] == [True, False]


def test_infinite_rate_allows_everything_in_time() -> None:
    limiter = RateLimiter(rate=inf, burst=1, now=0)
    assert all(limiter.allow(now / 1000) for now in range(1, 100))
