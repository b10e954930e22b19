"""Jobs that are sent more than once, to one worker or to several."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from handler.errors import Conflict
from handler.state.admission import Admission
from handler.state.idempotency import Way
from handler.state.records import OutputRecord


def admission(store, lost=(), **options):
    return Admission(store, lambda instance: instance in lost, **options)


async def end(store, record, **facts):
    facts = {"phase": "succeeded", "finished": 2000.0, **facts}
    return await store.update(record.id, record.uid, lambda one: replace(one, **facts))


async def test_of_the_same_key_twice_at_once_one_runs(worker, record):
    """On two workers, ten times each; all others join that one."""
    doors = [admission(worker()), admission(worker())]
    made = [record(f"job-{n}", key="k") for n in range(20)]
    entered = await asyncio.gather(*(doors[n % 2].enter(one) for n, one in enumerate(made)))

    (runs,) = [one for one in entered if one.way is Way.RUN]
    assert {one.way for one in entered if one is not runs} == {Way.JOIN}
    assert {one.record.uid for one in entered} == {runs.record.uid}


async def test_of_the_same_id_twice_at_once_one_runs(worker, record):
    """Without any key."""
    doors = [admission(worker()), admission(worker())]
    entered = await asyncio.gather(*(doors[n % 2].enter(record("a")) for n in range(6)))

    assert sorted(one.way.value for one in entered) == ["join"] * 5 + ["run"]


async def test_a_redelivery_is_answered_by_another_worker(worker, record):
    """A runs; B joins while it does, and then tells what came of it."""
    a, b = worker(), worker()
    first = record("a", key="platform:1")
    await admission(a).enter(first)
    joined = await admission(b).enter(record("b", key="platform:1"))
    assert (joined.way, joined.record.uid) == (Way.JOIN, first.uid)
    ended = await end(a, first)

    stored = await admission(b).enter(record("c", key="platform:1"))
    assert (stored.way, stored.record) == (Way.STORED, ended)
    assert await b.read("c") is None


async def test_another_payload_is_refused_by_key_and_by_id(store, record):
    """With 409; the id is free again when its run is over, the key is not."""
    door = admission(store)
    first = record("a", key="k")
    await door.enter(first)

    with pytest.raises(Conflict, match="idempotency key") as told:
        await door.enter(record("b", key="k", digest="d2"))
    assert told.value.status == 409
    with pytest.raises(Conflict, match="this id"):
        await door.enter(record("a", digest="d2"))
    await end(store, first)
    with pytest.raises(Conflict, match="idempotency key"):
        await door.enter(record("b", key="k", digest="d2"))
    assert (await door.enter(record("a", digest="d2"))).way is Way.RUN


async def test_a_refused_job_does_not_hold_its_key(store, record):
    """The id was the conflict: with another one, the same key is good."""
    door = admission(store)
    await door.enter(record("a"))
    with pytest.raises(Conflict):
        await door.enter(record("a", key="k", digest="d2"))

    assert (await door.enter(record("b", key="k", digest="d3"))).way is Way.RUN


async def test_a_key_leads_to_the_run_that_its_job_joined(store, record):
    """It came under an id that was running already."""
    door = admission(store)
    first = record("a")
    await door.enter(first)
    joined = await door.enter(record("a", key="k"))
    assert (joined.way, joined.record.uid) == (Way.JOIN, first.uid)
    ended = await end(store, first)

    stored = await door.enter(record("b", key="k"))
    assert (stored.way, stored.record) == (Way.STORED, ended)


async def test_what_may_be_retried_is_run_again_under_its_key(store, record):
    """Once, whoever asks."""
    door = admission(store)
    first = record("a", key="k")
    await door.enter(first)
    await end(store, first, phase="failed", error={"retryable": True})

    entered = await asyncio.gather(*(door.enter(record("a", key="k")) for _ in range(4)))
    assert sorted(one.way.value for one in entered) == ["join"] * 3 + ["run"]
    assert first.uid not in {one.record.uid for one in entered}


async def test_the_work_of_a_lost_worker_is_taken_over(store, record):
    """Under the key and the id that it had."""
    await admission(store).enter(record("a", key="k", instance="gone"))

    again = await admission(store, lost={"gone"}).enter(record("a", key="k"))
    assert again.way is Way.RUN
    assert (await store.read("a")).record.uid == again.record.uid


async def test_a_result_without_its_outputs_is_made_again(local, record):
    """They were not kept for long enough."""

    async def servable(one):
        return all(not output.kept for output in one.outputs)

    door = admission(local, servable=servable)
    first = record("a", key="k")
    await door.enter(first)
    await end(local, first, outputs=(OutputRecord("a", "b", 1, "c", kept=True),))

    assert (await door.enter(record("b", key="k"))).way is Way.RUN


async def test_a_claim_whose_record_comes_late_is_waited_for(local, record):
    """The other worker is between its two writes."""
    first = record("a", key="k")
    await local.keys.claim("k", first)
    second = asyncio.create_task(admission(local).enter(record("b", key="k")))
    done, _ = await asyncio.wait({second}, timeout=0.1)
    assert not done
    await local.create(first)

    assert (await second).way is Way.JOIN


@pytest.mark.parametrize("steps", range(12))
async def test_a_caller_who_goes_away_meanwhile_leaves_nothing_to_join(local, record, steps):
    """At whatever step: what is sent again runs."""
    door = admission(local)
    entering = asyncio.create_task(door.enter(record("a", key="k")))
    for _ in range(steps * 3):
        await asyncio.sleep(0.0002)
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)
    await door.settle()

    again = await door.enter(record("a", key="k"))
    assert again.way is (Way.RUN if entering.cancelled() else Way.JOIN)


async def test_a_run_is_known_by_its_key_without_anything_written(local, record):
    """Running, over, or lost; another payload is a conflict all the same."""
    lost = set()
    door = Admission(local, lambda instance: instance in lost)
    assert await door.known(record("a", key="k")) is None
    assert await local.keys.who("k") is None
    first = record("a", key="k")
    await door.enter(first)
    again = record("b", key="k")
    assert (await door.known(again)).way is Way.JOIN
    with pytest.raises(Conflict):
        await door.known(record("b", key="k", digest="other"))
    lost.add(first.instance)
    assert await door.known(again) is None
    await end(local, first)
    assert (await door.known(again)).record.uid == first.uid
    assert await door.known(record("c")) is None
    assert await local.read("b") is None


async def test_a_job_that_was_never_begun_is_no_end_of_its_key(local, record):
    """Its caller went away: whoever sends the key again has not."""
    door = admission(local)
    first = record("a", key="k")
    await door.enter(first)
    await end(local, first, phase="cancelled", error={"retryable": True})
    assert (await door.enter(record("b", key="k"))).way is Way.RUN
