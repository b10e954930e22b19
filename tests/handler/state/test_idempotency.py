"""What becomes of a job that was sent before."""

from __future__ import annotations

import pytest

from handler.state.idempotency import CLAIM_GRACE_S, Way, by_id, by_key
from handler.state.records import Claim

CLAIM = Claim(False, "job-1", "u", "d1", 1000.0, "1")
RETRY, NO_RETRY = {"retryable": True}, {"retryable": False}


@pytest.mark.parametrize(
    ("phase", "error", "facts", "way"),
    [
        ("running", None, {}, Way.JOIN),
        ("received", None, {}, Way.JOIN),
        ("running", None, {"lost": True}, Way.RUN),
        ("succeeded", None, {}, Way.STORED),
        ("succeeded", None, {"lost": True}, Way.STORED),
        ("succeeded", None, {"servable": False}, Way.RUN),
        ("failed", NO_RETRY, {}, Way.STORED),
        ("failed", NO_RETRY, {"servable": False}, Way.STORED),
        ("failed", RETRY, {}, Way.RUN),
        ("cancelled", NO_RETRY, {}, Way.STORED),
        ("succeeded", None, {"again": True}, Way.STORED),
        ("running", None, {"again": True}, Way.JOIN),
        ("failed", NO_RETRY, {"again": True}, Way.RUN),
        ("cancelled", NO_RETRY, {"again": True}, Way.RUN),
    ],
)
def test_a_key_sent_again(record, phase, error, facts, way):
    """Joined while it runs, then answered, unless another try may do better."""
    assert by_key(CLAIM, record(phase=phase, error=error), "d1", 1001.0, **facts) is way


def test_a_key_with_another_payload_is_a_conflict(record):
    """Whatever became of the first."""
    for one in (None, record(), record(phase="failed", error=RETRY)):
        assert by_key(CLAIM, one, "d2", 9000.0, lost=True) is Way.CONFLICT


def test_a_claim_without_a_record_is_waited_for_and_then_taken_over():
    """Its worker is between the two writes, or died there."""
    assert by_key(CLAIM, None, "d1", 1000.0 + CLAIM_GRACE_S - 1) is Way.JOIN
    assert by_key(CLAIM, None, "d1", 1000.0 + CLAIM_GRACE_S) is Way.RUN


@pytest.mark.parametrize(
    ("phase", "digest", "lost", "way"),
    [
        ("queued", "d1", False, Way.JOIN),
        ("queued", "d2", False, Way.CONFLICT),
        ("queued", "d1", True, Way.RUN),
        ("queued", "d2", True, Way.RUN),
        ("succeeded", "d1", False, Way.RUN),
        ("succeeded", "d2", False, Way.RUN),
        ("failed", "d1", False, Way.RUN),
    ],
)
def test_an_id_sent_again(record, phase, digest, lost, way):
    """Joined only while the first one runs with the same payload, else a new run."""
    assert by_id(record(phase=phase), digest, lost=lost) is way
