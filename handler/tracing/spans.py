"""A finished job as spans: when it was in which phase, and at which node.

Nothing of the payload is in them but ids and the classes of nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from handler.job import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from handler.job import Job
    from handler.pipeline.stages import Ran

NODES_MOST = 500
LONGEST_TEXT = 256


@dataclass(frozen=True, slots=True)
class SpanFacts:
    """One span.

    Attributes:
        begun, ended: epoch seconds.
        fault: the code of the error that ended it; "" for none.
        parts: the spans below it.
    """

    name: str
    begun: float
    ended: float
    attributes: dict[str, str | int] = field(default_factory=dict)
    fault: str = ""
    parts: tuple[SpanFacts, ...] = ()


def job_spans(job: Job, ran: Ran | None, adapter: str = "http") -> SpanFacts:
    """Give the span of a job that has ended, with those of its phases and nodes below it.

    Args:
        ran: what its run told, as far as it came; None where the engine never had it.
        adapter: who took the payload.
    """
    phases = tuple(_phases(job, ran))
    ended = phases[-1].ended if phases else job.finished_at or job.created_at
    told: dict[str, str | int] = {
        "comfyfn.job.id": _short(job.id),
        "comfyfn.adapter": adapter,
        "comfyfn.outcome": job.phase.value,
    }
    if job.error is not None:
        told |= {"comfyfn.error.code": job.error.code, "error.type": job.error.code}
    return SpanFacts("comfyfn.job", job.created_at, ended, told, _fault(job), phases)


def _phases(job: Job, ran: Ran | None) -> Iterator[SpanFacts]:
    """Lay the phases out one after the other: they are noted in order, without gaps."""
    begun = job.created_at
    last = next(reversed(job.stage_s), "")
    for name, seconds in job.stage_s.items():
        ended = begun + seconds
        told: dict[str, str | int] = {}
        nodes: tuple[SpanFacts, ...] = ()
        if name == Phase.RUNNING.value and ran is not None:
            nodes = tuple(_nodes(job, ran, begun, ended))
            told = {"comfyfn.nodes.run": len(ran.node_ms), "comfyfn.nodes.cached": len(ran.cached)}
        fault = _fault(job) if name == last else ""
        yield SpanFacts(f"comfyfn.{name}", begun, ended, told, fault, nodes)
        begun = ended


def _nodes(job: Job, ran: Ran, begun: float, ended: float) -> Iterator[SpanFacts]:
    """Lay out the nodes: each ends where the next one begins, as ComfyUI tells no other end."""
    order = sorted(ran.node_ms.items(), key=lambda entry: entry[1])[:NODES_MOST]
    starts = [min(max(at_ms / 1000, begun), ended) for _, at_ms in order]
    for (node_id, _), start, end in zip(order, starts, [*starts, ended][1:], strict=True):
        class_type = _short(str(ran.graph.get(node_id, {}).get("class_type", "")))
        told: dict[str, str | int] = {
            "comfyfn.node.id": _short(node_id),
            "comfyfn.node.class_type": class_type,
        }
        failed = job.error is not None and job.error.node_id == node_id
        yield SpanFacts(f"node {class_type}".strip(), start, end, told, _fault(job) * failed)


def _fault(job: Job) -> str:
    """Give the error's code; a job that was cancelled has not failed."""
    return job.error.code if job.error is not None and job.phase is Phase.FAILED else ""


def _short(text: str) -> str:
    # What cannot be written as UTF-8 would spoil the whole batch.
    return text[:LONGEST_TEXT].encode("utf-8", "replace").decode()
