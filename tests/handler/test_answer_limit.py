"""What callers whose connection is cut are told."""

from __future__ import annotations

import pytest

from handler.answer_limit import refusal_of, too_late
from handler.run_times import Estimate


@pytest.mark.parametrize(
    ("expected", "limit_s", "code"),
    [
        (Estimate(), 95, None),
        (Estimate(90, 0), 95, None),
        (Estimate(96, 0), 95, "too_long_to_answer"),
        (Estimate(96, 300), 95, "too_long_to_answer"),
        (Estimate(50, 50), 95, "queue_full"),
        (Estimate(None, 100), 95, "queue_full"),
        (Estimate(900, 900), 0, None),
    ],
)
def test_what_would_come_too_late_is_refused(expected, limit_s, code):
    """For good where the run itself is too long; else another time, or elsewhere."""
    fault = refusal_of(expected, limit_s)
    assert (fault.code if fault else None) == code
    if fault is not None:
        assert "webhook" in fault.hint
        assert fault.retryable == (code == "queue_full")


def test_how_long_to_wait_is_told():
    """Until the work before it has become so little."""
    fault = refusal_of(Estimate(20, 100), 95)
    assert fault is not None
    assert fault.retry_after_s == 25


def test_the_last_word_before_the_cut_says_what_becomes_of_the_job():
    """Who has a key comes again."""
    assert too_late(95, goes_on=True).retryable
    assert "Idempotency-Key" in too_late(95, goes_on=True).hint
    assert not too_late(95, goes_on=False).retryable
    assert "cancelled" in too_late(95, goes_on=False).message
