"""Spans of a job that has ended."""

from __future__ import annotations

import pytest
from collector import BEGAN, GRAPH, fault, make_job, make_ran

from handler.errors import JobCancelled
from handler.job import Job, Phase
from handler.pipeline.stages import Ran
from handler.tracing.spans import LONGEST_TEXT, NODES_MOST, job_spans


def laid_out(spans):
    return [(s.name, s.begun - BEGAN, s.ended - BEGAN) for s in spans]


def test_phases_follow_one_another_within_the_job():
    """From the payload's coming to the last byte of the answer's making."""
    told = job_spans(make_job(), None, "runpod")
    assert laid_out([told]) == [("comfyfn.job", 0, 15.5)]
    assert laid_out(told.parts) == [
        ("comfyfn.received", 0, 0.5),
        ("comfyfn.fetching", 0.5, 1.5),
        ("comfyfn.queued", 1.5, 3.5),
        ("comfyfn.running", 3.5, 7.5),
        ("comfyfn.delivering", 7.5, 15.5),
    ]
    assert told.attributes == {
        "comfyfn.job.id": "a-job",
        "comfyfn.adapter": "runpod",
        "comfyfn.outcome": "succeeded",
    }
    assert not any(span.fault or span.parts for span in (*told.parts,))


def test_nodes_follow_one_another_within_the_run():
    """By the time they began, with a clock that may differ a little; the last one to the end."""
    told = job_spans(make_job(), make_ran(n9=6, n3=3, n77=9))
    running = told.parts[3]
    assert laid_out(running.parts) == [
        ("node KSampler", 3.5, 6),
        ("node SaveImage", 6, 7.5),
        ("node", 7.5, 7.5),
    ]
    assert running.attributes == {"comfyfn.nodes.run": 3, "comfyfn.nodes.cached": 1}
    assert running.parts[0].attributes == {
        "comfyfn.node.id": "3",
        "comfyfn.node.class_type": "KSampler",
    }


def test_a_run_that_ended_before_its_first_node_has_none():
    """As that of a job which is cancelled as it begins."""
    told = job_spans(make_job(), make_ran())
    assert told.parts[3].parts == ()
    assert told.parts[3].attributes["comfyfn.nodes.run"] == 0


def test_a_fault_is_told_where_it_happened():
    """The job, its last phase, and the node; by code, as messages may hold the payload's texts."""
    job = make_job(fault(), received=1, running=2)
    told = job_spans(job, make_ran(n3=1, n9=2))
    assert told.attributes["comfyfn.outcome"] == "failed"
    assert told.attributes["comfyfn.error.code"] == "execution_error"
    assert told.attributes["error.type"] == "execution_error"
    assert [told.fault, *(phase.fault for phase in told.parts)] == [
        *("execution_error", "", "execution_error"),
    ]
    assert [node.fault for node in told.parts[1].parts] == ["", "execution_error"]
    assert "secret" not in repr(told)
    assert job.uid not in repr(told)


def test_a_cancelled_job_has_not_failed():
    """It did what was asked."""
    told = job_spans(make_job(JobCancelled("stop"), queued=1), None)
    assert told.attributes["comfyfn.outcome"] == "cancelled"
    assert told.attributes["comfyfn.error.code"] == "cancelled"
    assert not any(span.fault for span in (told, *told.parts))


@pytest.mark.parametrize("ended_at", [BEGAN + 3, None])
def test_a_job_without_phases_is_a_span_all_the_same(ended_at):
    """One that ended before anything was noted of it."""
    job = Job(uid="u", id="a", created_at=BEGAN, phase=Phase.FAILED, finished_at=ended_at)
    assert laid_out([job_spans(job, None)]) == [("comfyfn.job", 0, 3 if ended_at else 0)]


def test_a_huge_graph_and_long_or_broken_texts_are_cut():
    """A collector refuses a batch for one text that is no UTF-8."""
    job = make_job()
    job.id = "\ud800" + "x" * 10_000
    long = {"class_type": "y" * 10_000, "inputs": {}}
    graph = {**GRAPH, **{str(n): long for n in range(100, 5_100)}}
    ran = Ran(graph, ["9"], node_ms={str(n): int(BEGAN * 1000) + n for n in range(100, 5_100)})
    told = job_spans(job, ran)
    shown = told.attributes["comfyfn.job.id"]
    assert shown.encode() == b"?" + b"x" * (LONGEST_TEXT - 1)
    nodes = told.parts[3].parts
    assert len(nodes) == NODES_MOST
    assert nodes[0].attributes["comfyfn.node.class_type"] == "y" * LONGEST_TEXT
    assert told.parts[3].attributes["comfyfn.nodes.run"] == 5_000
