"""Records of jobs, in every kind of place."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from handler.errors import StateUnavailable
from handler.state.directory import DirectoryBlobs
from handler.state.layout import active_key, job_key, recent_key
from handler.state.records import OutputRecord
from handler.state.store import StateStore


def names(store) -> list[str]:
    return store.blobs.names("recent/") + store.blobs.names("active/")


async def end(store, record, **facts):
    facts = {"phase": "succeeded", "finished": record.created + 1, **facts}
    return await store.update(record.id, record.uid, lambda one: replace(one, **facts))


async def test_what_one_worker_writes_the_other_reads(worker, record):
    """By the job's id."""
    one = record("a job/1")

    assert await worker().create(one)
    assert (await worker().read("a job/1")).record == one
    assert await worker().read("other") is None


async def test_an_id_has_one_record(worker, record):
    """The second run is told, and leaves nothing."""
    first, second = record("a"), record("a")
    a, b = worker(), worker()
    assert await a.create(first)

    assert not await b.create(second)
    assert (await a.read("a")).record == first
    assert names(a) == [recent_key(first), active_key(first)]


async def test_a_later_run_takes_the_place_of_one_that_is_over(worker, record):
    """Only of that which was read; of two at once, one does."""
    a, b = worker(), worker()
    first, second, third = record("a"), record("a", key="k"), record("a", instance="w2")
    await a.create(first)
    await end(a, first)
    over = await a.read("a")

    won = await asyncio.gather(a.create(second, over), b.create(third, over))
    assert sorted(won) == [False, True]
    winner = second if won[0] else third
    assert (await b.read("a")).record == winner
    assert names(a) == [recent_key(winner), active_key(winner)]


async def test_updates_of_many_are_all_there(worker, record):
    """Each builds on what the others wrote."""
    a, b = worker(), worker()
    one = record(stats={"n": 0})
    await a.create(one)

    def more(now):
        return replace(now, stats={"n": now.stats["n"] + 1})

    await asyncio.gather(*(w.update(one.id, one.uid, more) for w in (a, b) for _ in range(3)))
    assert (await a.read(one.id)).record.stats == {"n": 6}


async def test_what_is_over_stays_as_it_is(store, record):
    """And a run whose record is another's by now has none."""
    one = record()
    await store.create(one)
    ended = await end(store, one)

    assert ended.phase == "succeeded"
    assert await end(store, one, phase="failed") == ended
    assert await end(store, record()) is None
    assert store.blobs.names("active/") == []


async def test_pages_are_newest_first_and_filtered(worker, record):
    """Another worker goes on where the first one ended."""
    a, b = worker(), worker()
    made = [record(f"job-{n}", adapter="x" if n % 3 else "y") for n in range(9)]
    await asyncio.gather(*(a.create(one) for one in made))
    newest = list(reversed(made))

    first = await a.page(limit=4)
    assert list(first.records) == newest[:4]
    second = await b.page(after=first.cursor, limit=4)
    third = await b.page(after=second.cursor, limit=4)
    assert [*first.records, *second.records, *third.records] == newest
    assert third.cursor is None
    only = await a.page(lambda one: one.adapter == "y")
    assert list(only.records) == [one for one in newest if one.adapter == "y"]


async def test_a_filter_that_fits_nothing_does_not_read_everything(local, record):
    """The page is empty, and says where to go on."""
    await asyncio.gather(*(local.create(record(f"job-{n}")) for n in range(600)))

    page = await local.page(lambda _: False)
    assert page.records == ()
    assert (await local.page(lambda _: False, after=page.cursor)).cursor is None


async def test_waiting_ends_with_the_job(worker, record):
    """At once where it ends here, by looking where it ends elsewhere."""
    a, b = worker(), worker()
    one = record()
    await a.create(one)
    here = asyncio.create_task(a.wait(one, (30, 30)))
    elsewhere = asyncio.create_task(b.wait(one, (0.05, 0.1)))
    while not a._waiting or not b._waiting:
        await asyncio.sleep(0)
    ended = await end(a, one)

    assert await asyncio.wait_for(here, 10) == ended
    assert await asyncio.wait_for(elsewhere, 10) == ended
    assert a._waiting == {}
    assert await a.wait(ended) is ended


async def test_waiting_for_a_record_that_is_gone_ends(local, record):
    """With what was known last."""
    one = record()

    assert await local.wait(one, (0.01, 0.01)) == one


async def test_old_records_go_and_young_ones_stay(worker, record):
    """With their marks; those with outputs as long as these are kept."""
    store = worker()
    kept = (OutputRecord("a", "b", 1, "c", kept=True),)
    old, young, running, rich = (record(n, created=1000.0) for n in ("a", "b", "c", "d"))
    for one in (old, young, running, rich):
        await store.create(one)
    await end(store, old, finished=1100.0)
    await end(store, young, finished=1900.0)
    await end(store, rich, finished=1100.0, outputs=kept)

    assert await worker().expire(1701.0, 600, 1000) == 1
    left = [await store.read(n) is not None for n in ("a", "b", "c", "d")]
    assert left == [False, True, True, True]
    assert await store.expire(9000.0, 600, 1000) == 2
    assert names(store) == [recent_key(running), active_key(running)]


async def test_the_claim_of_a_key_goes_with_its_record(store, record):
    """Also when a later run takes the record's place."""
    first, second = record("a", key="k1"), record("a", key="k2")
    await store.keys.claim("k1", first)
    await store.keys.claim("k2", second)
    await store.create(first)
    await end(store, first)
    await store.create(second, await store.read("a"))
    assert (await store.keys.claim("k1", record())).mine

    await end(store, second, finished=1100.0)
    await store.expire(9000.0, 600)
    assert (await store.keys.claim("k2", record())).mine


async def test_marks_without_a_record_go_when_they_are_old(local, record):
    """A worker died between the two."""
    local.blobs.mark(recent_key(record()))
    await local.expire(9000.0, 600)

    assert names(local) == []


async def test_a_record_that_cannot_be_read_is_none(local, record):
    """A later version's, or a damaged one: it is logged, and the list goes on."""
    local.blobs.mark(recent_key(record("a")))
    local.blobs.create(job_key("a"), b"{}")
    await local.create(record("b"))

    assert await local.read("a") is None
    assert [one.id for one in (await local.page()).records] == ["b"]


async def test_two_thousand_jobs_leave_a_flat_disk(local, record, tmp_path):
    """Every file and folder of theirs is gone."""

    def count():
        return sum(1 for _ in (tmp_path / "state").rglob("*"))

    empty = count()
    for start in range(0, 2000, 100):
        made = [record(f"job-{start + n}", key=f"k{start + n}") for n in range(100)]
        await asyncio.gather(*(local.keys.claim(one.key, one) for one in made))
        await asyncio.gather(*(local.create(one) for one in made))
        await asyncio.gather(*(end(local, one) for one in made))
    assert count() > 6000

    assert await local.expire(1e6, 600) == 2000
    assert count() == empty


async def test_a_store_that_cannot_be_reached_is_told(tmp_path):
    """As what may pass."""
    (tmp_path / "state").write_text("a file")
    store = StateStore(DirectoryBlobs(tmp_path / "state"))

    with pytest.raises(StateUnavailable):
        await store.open()
    store.close()


async def test_a_file_that_came_too_late_is_closed(local):
    """Whoever asked has gone away meanwhile."""
    disposed = asyncio.Event()
    loop = asyncio.get_running_loop()
    gate = asyncio.Event()

    def work():
        loop.call_soon_threadsafe(gate.set)
        return "file"

    task = asyncio.create_task(local.call(work, dispose=lambda _: disposed.set()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(disposed.wait(), 10)
