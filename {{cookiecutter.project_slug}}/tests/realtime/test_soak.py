"""A few seconds of the soak; the long one is a command, see `soak.py`."""

import pytest

from .soak import soak


def test_after_a_crowd_every_count_is_back_at_zero(caplog: pytest.LogCaptureFixture) -> None:
    assert len(soak(seconds=3, seed=1)) >= 1
    assert [record for record in caplog.records if record.exc_info] == []
