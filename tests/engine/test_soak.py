"""A second of the soak test; the long one is a command, see `soak.py`."""

import pytest

from .soak import soak


def test_all_counts_return_to_zero_after_a_crowd(caplog: pytest.LogCaptureFixture) -> None:
    assert len(soak(seconds=1, seed=1)) >= 1
    assert [record for record in caplog.records if record.exc_info] == []
