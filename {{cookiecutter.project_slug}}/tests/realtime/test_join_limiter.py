"""The limit on joins of one address."""

import pytest
from fastapi import HTTPException

from {{ cookiecutter.__package_name }}.realtime.rooms import join_limiter
from {{ cookiecutter.__package_name }}.realtime.rooms.join_limiter import (
    JoinLimiter,
)


def test_an_address_joins_so_many_rooms_a_second_and_ten_times_that_at_once() -> None:
    now = 1000.0
    limiter = JoinLimiter(per_second=0.5, clock=lambda: now)
    for _ in range(5):
        limiter.check("192.0.2.1")
    with pytest.raises(HTTPException) as refusal:
        limiter.check("::ffff:192.0.2.1")
    assert refusal.value.status_code == 429
    limiter.check("192.0.2.2")
    now += 2
    limiter.check("192.0.2.1")
    with pytest.raises(HTTPException):
        limiter.check("192.0.2.1")


def test_only_the_latest_addresses_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_limiter, "MAX_ADDRESSES", 2)
    limiter = JoinLimiter(per_second=0.1, clock=lambda: 1000.0)
    limiter.check("192.0.2.1")
    for host in ("192.0.2.2", "192.0.2.3"):
        limiter.check(host)
    limiter.check("192.0.2.1")
    with pytest.raises(HTTPException):
        limiter.check("192.0.2.3")
