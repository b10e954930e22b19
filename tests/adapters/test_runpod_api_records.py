"""What is remembered of a job of the request API."""

from __future__ import annotations

import pytest

from adapters.runpod_api_records import QueuedJob, Status


def test_a_job_is_the_same_after_its_facts_were_kept():
    """All but what is of one process alone."""
    job = QueuedJob("a", sync=True, created=1.0, ttl_s=60.0, hooked=True, retries=2)
    job.status, job.taken, job.ended = Status.FAILED, 2.0, 3.5

    again = QueuedJob.of("a", job.facts())
    assert again.facts() == job.facts()
    assert again.told() == job.told()


@pytest.mark.parametrize("facts", [{"status": "SLEEPING"}, {}, {"status": "FAILED", "colour": 1}])
def test_facts_of_another_version_are_none(facts):
    """Who reads them puts them away."""
    with pytest.raises((KeyError, ValueError, TypeError)):
        QueuedJob.of("a", facts)


def test_times_are_told_in_ms_as_soon_as_they_are_known():
    """Progress only while it runs."""
    job = QueuedJob("a", sync=False, created=10.0, ttl_s=60.0, progress={"percent": 5})
    assert job.told() == {"id": "a", "status": "IN_QUEUE"}
    job.status, job.taken = Status.IN_PROGRESS, 10.25
    assert job.told() == {
        "id": "a",
        "status": "IN_PROGRESS",
        "delayTime": 250,
        "output": {"percent": 5},
    }
    job.status, job.ended = Status.COMPLETED, 11.0
    assert job.told() == {
        "id": "a",
        "status": "COMPLETED",
        "delayTime": 250,
        "executionTime": 750,
    }
    assert [status for status in Status if not status.final] == ["IN_QUEUE", "IN_PROGRESS"]
