"""Jobs as the ledger writes them."""

from __future__ import annotations

from handler.errors import EngineDied
from handler.job import Job, Phase
from handler.job_records import HAPPENED, ended, moved, output_record, record_of
from handler.records import Output
from handler.state.records import EVENTS_TAIL, decode, encode

PICTURE = Output("1", "t", "image", "image/png", "a b.png", 3, "00", width=1, height=2)


def a_job() -> Job:
    """Make a job that somebody sent with a key."""
    return Job(uid="u" * 32, id="mine", adapter="runpod", digest="d", key="runpod:1")


def test_a_record_begins_with_what_others_must_know():
    """Who has it, since when, and what it is told from others by."""
    job = a_job()
    record = record_of(job, "worker-1", "Worker")
    assert (record.id, record.uid) == ("mine", job.uid)
    assert (record.instance, record.worker) == ("worker-1", "Worker")
    assert (record.digest, record.key, record.adapter) == ("d", "runpod:1", "runpod")
    assert (record.created, record.phase, record.final) == (job.created_at, "received", False)


def test_the_first_run_is_when_it_started():
    """A prompt that is handed in again does not start anew."""
    record = moved(record_of(a_job(), "w-1", "W"), "queued", 5.0)
    assert record.started is None
    record = moved(moved(record, "running", 7.0), "running", 9.0)
    assert (record.phase, record.started) == ("running", 7.0)


def test_an_end_is_told_with_its_outputs():
    """By the names that they are kept under; the record survives being written."""
    job = a_job()
    job.hold([PICTURE], ["a b.png"])
    job.succeed([PICTURE], {"total_time": 1.0})
    record = decode(encode(ended(job, record_of(job, "w-1", "W"))))
    assert (record.phase, record.finished) == ("succeeded", job.finished_at)
    assert record.stats == {"total_time": 1.0}
    assert record.outputs == (output_record(PICTURE, "a b.png"),)
    assert record.outputs[0].kept
    assert not output_record(PICTURE, "").kept


def test_a_failure_is_told_by_its_envelope():
    """With the outputs that were there by then."""
    job = a_job()
    job.hold([PICTURE])
    job.fail(EngineDied("gone"))
    record = ended(job, record_of(job, "w-1", "W"))
    assert record.error is not None
    assert (record.phase, record.error["code"], record.retryable) == ("failed", "engine_died", True)
    assert [one.name for one in record.outputs] == [""]


def test_events_are_those_that_happened():
    """The newest of them, without the steps in between."""
    job = a_job()
    for number in range(2 * EVENTS_TAIL):
        job.tell("output", {"node_id": str(number)})
        job.tell("progress", {"value": number})
    job.enter(Phase.RUNNING)
    job.succeed([])
    events = ended(job, record_of(job, "w-1", "W")).events
    assert len(events) == EVENTS_TAIL
    assert {one["type"] for one in events} <= HAPPENED
    assert events[-1]["type"] == "succeeded"
