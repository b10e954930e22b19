"""Jobs as records: what the ledger writes of them. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from handler.state.records import EVENTS_TAIL, JobRecord, OutputRecord

if TYPE_CHECKING:
    from handler.job import Job
    from handler.records import Output

HAPPENED = frozenset({"phase", "output", "succeeded", "failed", "cancelled"})
"""The events that a record has: those that tell what happened, without the steps in between."""


def record_of(job: Job, instance: str, worker: str) -> JobRecord:
    """Make the record of a job that is about to begin.

    Args:
        instance, worker: id and name of the worker that has it.
    """
    return JobRecord(
        id=job.id,
        uid=job.uid,
        instance=instance,
        worker=worker,
        created=job.created_at,
        adapter=job.adapter,
        digest=job.digest,
        key=job.key,
    )


def moved(record: JobRecord, phase: str, now: float) -> JobRecord:
    """Give the record of a job that has gone on to a phase.

    Args:
        now: Unix seconds.
    """
    started = record.started or (now if phase == "running" else None)
    return replace(record, phase=phase, started=started)


def ended(job: Job, record: JobRecord) -> JobRecord:
    """Give the record of a job that is over."""
    happened = [event for event in job.events if event.type in HAPPENED][-EVENTS_TAIL:]
    names = job.kept or ("",) * len(job.outputs)
    return replace(
        record,
        phase=job.phase.value,
        finished=job.finished_at,
        error=job.error.envelope() if job.error else None,
        stats=job.stats,
        webhooks=job.webhooks,
        outputs=tuple(
            output_record(output, name) for output, name in zip(job.outputs, names, strict=True)
        ),
        events=tuple({"seq": one.seq, "type": one.type, "data": one.data} for one in happened),
    )


def output_record(output: Output, name: str) -> OutputRecord:
    """Give the record of an output.

    Args:
        name: that it is kept under; "" where it is not.
    """
    return OutputRecord(
        name=name,
        mime=output.mime,
        bytes=output.bytes,
        sha256=output.sha256,
        facts=output.public(),
        url=output.url,
        kept=bool(name),
    )
