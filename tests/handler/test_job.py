"""One job: phases, events, followers; and the board of all."""

from __future__ import annotations

import asyncio
import time

import pytest

from handler.errors import EngineDied, ExecutionFailed, JobCancelled
from handler.job import (
    EVENTS_KEPT,
    FRESH_JOBS,
    RECORD_TEXT_CHARS,
    Job,
    JobBoard,
    JobEvent,
    Phase,
    shortened,
)
from handler.records import Output

ENDS = [Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED]


def a_job(job_id="j", uid=None):
    return Job(uid=uid or f"uid-{job_id}", id=job_id)


async def all_of(job, after=0):
    return [event async for event in job.follow(after)]


@pytest.mark.parametrize("phase", list(Phase))
def test_only_the_last_three_phases_are_final(phase):
    """Nothing comes after success, failure and cancellation."""
    assert phase.final is (phase in ENDS)


@pytest.mark.parametrize("end", ENDS)
def test_a_final_phase_stays(end):
    """Whatever is told later, the end is the end."""
    job = a_job()
    job.enter(end)
    finished = job.finished_at
    job.enter(Phase.RUNNING)
    job.fail(EngineDied("late"))

    assert job.phase is end
    assert job.finished_at == finished is not None
    assert job.error is None


async def test_the_first_error_counts():
    """A second fault is a consequence of the first."""
    job = a_job()
    job.fail(EngineDied("first"))
    job.fail(JobCancelled("second"))

    assert job.phase is Phase.FAILED
    assert job.error.message == "first"
    (event,) = await all_of(job)
    assert (event.type, event.data["phase"], event.data["error"]) == ("failed", "failed", "first")


def test_a_cancelled_job_ends_as_cancelled():
    """A cancel is no failure."""
    job = a_job()
    job.fail(JobCancelled("asked"))

    assert job.phase is Phase.CANCELLED


async def test_events_come_in_order_and_end_with_the_end():
    """Phases, progress and the end, numbered from 1."""
    job = a_job()
    job.enter(Phase.FETCHING)
    job.enter(Phase.FETCHING)
    job.tell("progress", {"overall_pct": 5})
    job.enter(Phase.SUCCEEDED, outputs=[])

    events = await all_of(job)
    assert [(e.seq, e.type) for e in events] == [(1, "phase"), (2, "progress"), (3, "succeeded")]
    assert [e.final for e in events] == [False, False, True]
    assert events[0].data == {"phase": "fetching"}
    assert events[2].data == {"phase": "succeeded", "outputs": []}


async def test_a_follower_resumes_after_a_number():
    """What was seen is not told again; after the end there is nothing."""
    job = a_job()
    for phase in (Phase.FETCHING, Phase.QUEUED, Phase.SUCCEEDED):
        job.enter(phase)

    assert [e.seq for e in await all_of(job, after=1)] == [2, 3]
    assert await all_of(job, after=3) == []
    assert await all_of(job, after=99) == []


async def test_followers_are_told_as_it_happens():
    """Each of several followers gets every event once."""
    job = a_job()
    followers = [asyncio.create_task(all_of(job)) for _ in range(3)]
    for phase in (Phase.FETCHING, Phase.RUNNING, Phase.FAILED):
        await asyncio.sleep(0)
        job.enter(phase)

    for events in await asyncio.gather(*followers):
        assert [e.seq for e in events] == [1, 2, 3]


async def test_a_job_knows_whether_it_is_followed():
    """Previews and positions are told only where somebody listens."""
    job = a_job()
    assert not job.followed
    following = asyncio.create_task(all_of(job))
    await asyncio.sleep(0)
    assert job.followed
    following.cancel()
    await asyncio.wait({following})
    assert not job.followed


async def test_a_slow_follower_loses_the_oldest_only():
    """Memory is bounded; the order is never broken and the end is there."""
    job = a_job()
    for _ in range(EVENTS_KEPT + 10):
        job.tell("progress", {})
    job.enter(Phase.SUCCEEDED)

    numbers = [e.seq for e in await all_of(job)]
    assert numbers == list(range(12, EVENTS_KEPT + 12))


async def test_steps_go_before_anything_that_tells_what_happened():
    """A run of hours with one text at its beginning still tells the text."""
    job = a_job()
    job.tell("output", {"n": 1})
    for _ in range(3 * EVENTS_KEPT):
        job.tell("progress", {})
    job.tell("output", {"n": 2})
    job.enter(Phase.SUCCEEDED)

    events = await all_of(job)
    assert len(events) == EVENTS_KEPT
    assert [e.data for e in events if e.type == "output"] == [{"n": 1}, {"n": 2}]
    assert [e.seq for e in events] == sorted(e.seq for e in events)
    assert events[-1].final


async def test_only_the_newest_preview_is_kept():
    """Pictures are large, and older ones are no news."""
    job = a_job()
    for number in range(3):
        job.tell("preview", {"number": number})
        job.tell("output", {})
    job.enter(Phase.SUCCEEDED)

    assert [e.type for e in await all_of(job)] == [
        *("output", "output", "preview", "output", "succeeded")
    ]


async def test_only_the_newest_step_of_each_download_is_kept():
    """And none once the job is old."""
    job = Job(uid="u", id="j")
    for done in (1, 2, 3):
        job.tell("download", {"node_id": "1", "input": "a", "done": done})
        job.tell("download", {"node_id": "2", "input": "a", "done": done})
    job.succeed([])

    told = [event.data async for event in job.follow() if event.type == "download"]
    assert [(data["node_id"], data["done"]) for data in told] == [("1", 3), ("2", 3)]
    job.compact()
    assert [event.type async for event in job.follow()] == ["succeeded"]


def test_a_record_keeps_the_beginning_of_long_texts():
    """The answer has them whole; the record lives for an hour."""
    job = a_job()
    text = "x" * (RECORD_TEXT_CHARS + 1)
    short = Output("1", "t", "text", "text/plain", "1.txt", 1, "00", text="x")
    long = Output("2", "t", "text", "text/plain", "2.txt", len(text), "00", text=text)
    job.succeed([short, long])

    assert job.phase is Phase.SUCCEEDED
    assert [output.text for output in job.outputs] == ["x", text[:-1]]
    assert job.outputs[0] is short


def test_long_texts_and_lists_are_cut_at_any_depth():
    """What was told is left as it was."""
    long = "x" * (RECORD_TEXT_CHARS + 1)
    told = {"a": long, "b": [{"c": (long, 5, None)}], "d": [1] * len(long), "e": {"f": long}}
    cut = long[:-1]

    assert shortened(told) == {
        "a": cut,
        "b": [{"c": [cut, 5, None]}],
        "d": [1] * len(cut),
        "e": {"f": cut},
    }
    assert told["a"] is long
    assert len(told["d"]) == len(long)


async def test_a_record_keeps_of_an_error_what_it_says_and_nothing_else():
    """A traceback's frames hold the whole request, and a node may say megabytes."""
    long = "x" * (RECORD_TEXT_CHARS + 1)
    job = a_job()
    try:
        raise ExecutionFailed(long, node_id="5", details={"exception_message": long}, hint="h")
    except ExecutionFailed as raised:
        error = raised
        job.fail(error)

    kept = job.error
    assert (kept.__traceback__, kept.__context__, kept.__cause__) == (None, None, None)
    assert (type(kept), kept.node_id, kept.hint) == (ExecutionFailed, "5", "h")
    assert kept.message == str(kept) == long[:-1]
    assert kept.details == {"exception_message": long[:-1]}
    (event,) = await all_of(job)
    assert event.data == {"phase": "failed", **kept.envelope()}
    assert (error.message, error.details) == (long, {"exception_message": long})


async def test_finished_jobs_that_are_not_fresh_keep_no_steps():
    """Hundreds of records stay small; what happened is still told."""
    board, jobs = JobBoard(3600), [a_job(f"j{number}") for number in range(FRESH_JOBS + 1)]
    for job in jobs[:-1]:
        board.add(job)
        job.tell("progress", {})
        job.tell("output", {})
        job.enter(Phase.SUCCEEDED)
    assert len(await all_of(jobs[0])) == 3
    board.add(jobs[-1])

    assert [e.type for e in await all_of(jobs[0])] == ["output", "succeeded"]
    assert len(await all_of(jobs[1])) == 3


def test_waiting_means_the_engine_is_still_ahead():
    """Those count for MAX_QUEUE_DEPTH."""
    waits = {phase: Job(uid="u", id="j", phase=phase).waiting for phase in Phase}

    assert [p for p, waiting in waits.items() if waiting] == [
        Phase.RECEIVED,
        Phase.FETCHING,
        Phase.QUEUED,
    ]


def test_a_job_is_joinable_until_its_outputs_are_decided_on():
    """And not while it is being cancelled."""
    joinable = [phase for phase in Phase if Job(uid="u", id="j", phase=phase).joinable]
    assert joinable == [Phase.RECEIVED, Phase.FETCHING, Phase.QUEUED, Phase.RUNNING]
    assert not Job(uid="u", id="j", cancel_asked=True).joinable


def test_a_listener_is_told_every_event_once():
    """Beside the followers, and whoever follows."""
    told = []
    job = Job(uid="u", id="j", listener=told.append)
    job.enter(Phase.RUNNING)
    job.tell("progress", {})
    job.enter(Phase.SUCCEEDED)
    assert [event.type for event in told] == ["phase", "progress", "succeeded"]
    assert [event.seq for event in told] == [1, 2, 3]


async def test_a_phase_is_waited_out():
    """Or a time, whichever is sooner."""
    job = a_job()
    await job.left(Phase.RECEIVED, 0.01)
    assert job.phase is Phase.RECEIVED
    leaving = asyncio.create_task(job.left(Phase.RECEIVED, 20))
    ending = asyncio.create_task(job.ended())
    await asyncio.sleep(0)
    job.enter(Phase.FETCHING)
    await leaving
    assert not ending.done()
    job.enter(Phase.SUCCEEDED)
    await ending
    assert not job.followed


def test_kept_outputs_are_told_with_their_names():
    """By the job's end, whichever was known first."""
    job = a_job()
    outputs = [
        Output(str(number), "t", "text", "text/plain", f"{number}.txt", 1, "00", text="x")
        for number in range(2)
    ]
    job.hold(outputs, ["0.txt", ""])
    job.succeed(outputs, {"total_time": 1})
    assert [one.get("name") for one in job.public_outputs()] == ["0.txt", None]
    assert job.public()["stats"] == {"total_time": 1}
    job.hold(outputs[:1])
    assert job.kept == ("",)


def test_the_board_finds_a_job_by_the_name_that_is_ours():
    """Ids may come again; uids do not."""
    board = JobBoard(3600)
    first, second = a_job("same", "u1"), a_job("same", "u2")
    board.add(first)
    board.add(second)
    assert (board.by_uid("u1"), board.by_uid("u2")) == (first, second)
    assert board.by_uid("same") is None
    assert board.newest() == [second, first]


def test_seconds_are_counted_per_phase():
    """A phase that is left counts from its beginning."""
    job = a_job()
    job.enter(Phase.FETCHING)
    job.enter(Phase.SUCCEEDED)

    assert list(job.stage_s) == ["received", "fetching"]
    assert all(seconds >= 0 for seconds in job.stage_s.values())


def test_the_public_form_tells_everything_that_is_known():
    """What `GET /jobs/{id}` answers is JSON-safe."""
    job = a_job()
    early = job.public()
    assert early["status"] == "received"
    assert (early["finished_at"], early["progress"], early["error"]) == (None, None, None)

    output = Output("1", "t", "text", "text/plain", "1.txt", 1, "00", text="x")
    job.hold([output])
    job.progress = {"overall_pct": 50.0}
    job.fail(EngineDied("gone"))
    late = job.public()
    assert late["status"] == "failed"
    assert late["finished_at"] >= late["created_at"]
    assert late["outputs"] == [output.public()]
    assert late["error"]["code"] == "engine_died"
    assert late["progress"] == {"overall_pct": 50.0}
    assert repr(job) == "<Job j failed>"


def test_an_event_is_final_by_its_type():
    """Followers stop there."""
    assert JobEvent(1, "cancelled", {}).final
    assert not JobEvent(1, "output", {}).final


def test_the_board_finds_the_newest_of_an_id():
    """Callers may use an id again."""
    board = JobBoard(3600)
    first, second = a_job("same", "u1"), a_job("same", "u2")
    board.add(first)
    board.add(second)

    assert board.find("same") is second
    assert board.find("other") is None
    assert board.active("same") == [first, second]
    first.enter(Phase.SUCCEEDED)
    assert board.active("same") == [second]
    assert board.active() == [second]
    assert board.active("other") == []


def test_finished_jobs_are_forgotten_after_their_time():
    """Retention counts from the end; what is younger stays."""
    board = JobBoard(100)
    old, young = a_job("old"), a_job("young")
    for job in (old, young):
        board.add(job)
        job.enter(Phase.SUCCEEDED)
    old.finished_at = time.time() - 101
    board.add(a_job("new"))

    assert board.find("old") is None
    assert board.find("young") is young


def test_one_of_several_with_an_id_is_forgotten_alone():
    """An old job takes no younger namesake with it."""
    board = JobBoard(100)
    old, young = a_job("same", "u1"), a_job("same", "u2")
    board.add(old)
    board.add(young)
    old.enter(Phase.SUCCEEDED)
    old.finished_at = time.time() - 101
    board.add(a_job("new"))

    assert board.find("same") is young
    assert board.active("same") == [young]


def test_an_unfinished_job_in_front_keeps_no_old_record_alive():
    """A job that runs for hours does not stop the forgetting behind it."""
    board = JobBoard(100)
    running, old = a_job("running"), a_job("old")
    board.add(running)
    board.add(old)
    old.enter(Phase.SUCCEEDED)
    old.finished_at = time.time() - 101
    board.add(a_job("new"))

    assert board.find("old") is None
    assert board.find("running") is running


def test_over_the_limit_the_oldest_finished_go_first():
    """Unfinished jobs are never forgotten."""
    board = JobBoard(3600, most=2)
    running, done = a_job("running"), [a_job(f"done-{number}") for number in range(3)]
    board.add(running)
    for job in done:
        board.add(job)
        job.enter(Phase.SUCCEEDED)
    board.add(a_job("last"))

    assert [board.find(job.id) for job in done] == [None, *done[1:]]
    assert board.find("running") is running
    assert len(board.active()) == 2


def test_a_long_queue_pushes_no_records_out():
    """The limit is of finished jobs; those that wait are bounded by the queue."""
    board = JobBoard(3600, most=2)
    done = a_job("done")
    board.add(done)
    done.enter(Phase.SUCCEEDED)
    for number in range(20):
        board.add(a_job(f"waits-{number}"))

    assert board.find("done") is done
    assert len(board.active()) == 20


def test_the_figures_of_a_failure_are_the_jobs():
    """Its record has them where those of a success are, and not twice."""
    job = a_job("a")
    job.fail(EngineDied("gone").with_stats({"gpu_time": 3}))

    public = job.public()
    assert public["stats"] == {"gpu_time": 3}
    assert "stats" not in public["error"]
    assert "stats" not in job.events[-1].data


def test_the_phase_it_is_in_counts_so_far():
    """Until it is over."""
    job = a_job("a")
    assert job.stage_s == {}
    assert job.stages_so_far()["received"] > 0
    job.enter(Phase.SUCCEEDED)
    assert job.stages_so_far() == {**job.stage_s, "succeeded": 0.0}
