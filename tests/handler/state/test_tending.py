"""What a worker does for the state while it lives."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
import state_process
from state_process import settings

from handler.state.event_log import LoggedEvent
from handler.state.idempotency import Way
from handler.state.place import open_state
from handler.state.tending import Rhythm, expire, tend


@pytest.fixture
async def state(tmp_path):
    made = await open_state(
        settings("", tmp_path / "sd", JOB_RETENTION_S="60", OUTPUT_RETENTION_S="60"),
        lambda: None,
        time.time(),
    )
    yield made
    await made.close()


async def until(done):
    async with asyncio.timeout(20):
        while not await done():
            await asyncio.sleep(0.01)


async def test_a_lost_workers_jobs_are_told_once(state, record):
    """And its key is free for another run."""
    gone = record("a", key="k", instance="gone", created=time.time())
    await state.admission.enter(gone)
    state.store.blobs.mark("instances/gone", b'{"at": 1000}')
    told = []

    async def ended(one):
        told.append(one.id)

    tending = asyncio.create_task(tend(state, ended, Rhythm(0.01, 1000)))

    async def failed():
        return bool(told)

    await until(failed)
    tending.cancel()
    assert told == ["a"]
    again = replace(gone, uid="e" * 32, instance=state.instance.id)
    assert (await state.admission.enter(again)).way is Way.RUN


async def test_a_place_that_is_away_for_a_while_ends_nothing(state, tmp_path):
    """The next sign of life is given when it is back."""
    aside = tmp_path / "sd" / "jobs" / ".aside"
    aside.rename(tmp_path / "away")
    key = f"instances/{state.instance.id}"
    before = state.store.blobs.read(key).body

    async def ended(_):
        """Nothing is lost here."""

    tending = asyncio.create_task(tend(state, ended, Rhythm(0.01, 0.0)))
    await asyncio.sleep(0.05)
    assert state.store.blobs.read(key).body == before
    (tmp_path / "away").rename(aside)

    async def beaten():
        return state.store.blobs.read(key).body != before

    await until(beaten)
    assert not tending.done()
    tending.cancel()


async def test_everything_of_old_jobs_goes(state, tmp_path, record):
    """Outputs, record, claim and events: what is left is what was there before."""

    def files():
        return set((tmp_path / "sd").rglob("*"))

    await expire(state, time.time())
    before = files()
    (tmp_path / "cat.png").write_bytes(b"meow")
    now = time.time()
    one = record("a", key="k", created=now, instance=state.instance.id)
    await state.admission.enter(one)
    await state.kept.put(one.uid, "cat.png", tmp_path / "cat.png", now)
    state.events.tell(one.uid, LoggedEvent(1, "succeeded", {}), final=True)
    state.recorder.note("a", one.uid, lambda r: replace(r, phase="succeeded", finished=now))
    await state.recorder.settle(one.uid)
    await state.events.settle()
    assert len(files()) > len(before) + 6

    await expire(state, now + 30)
    assert await state.store.read("a") is not None
    await expire(state, now + 61)
    left = {p for p in files() - before if not (p.is_dir() and p.name == "events")}
    assert left == set()


async def test_signs_of_life_wait_for_no_expiry(state, record):
    """However many records there are to go: who gives no sign for a minute loses its jobs."""
    now, key = time.time(), f"instances/{state.instance.id}"
    for number in range(80):
        old = record(f"job-{number}", created=now - 100, instance=state.instance.id)
        await state.store.create(replace(old, phase="succeeded", finished=now - 61))

    async def ended(_):
        """Nothing is lost here."""

    signs = set()
    tending = asyncio.create_task(tend(state, ended, Rhythm(0.001, 1000)))
    while await state.store.read("job-0") is not None:
        signs.add(state.store.blobs.read(key).body)
        await asyncio.sleep(0)
    tending.cancel()
    assert len(signs) > 3


async def test_worker_that_does_not_live_long_expires_too(state, record):
    """What its predecessors left goes soon after its start, not only after many minutes."""
    old = record("a", created=time.time() - 100, instance=state.instance.id)
    done = replace(old, phase="succeeded", finished=time.time() - 61)
    await state.store.create(done)

    async def ended(_):
        """Nothing is lost here."""

    tending = asyncio.create_task(tend(state, ended, Rhythm(0.01, 1000)))

    async def gone():
        return await state.store.read("a") is None

    await until(gone)
    tending.cancel()


@pytest.mark.parametrize(
    ("kept_s", "wanted"),
    [
        ((3600, 3600), Rhythm(15, 300)),
        ((3600, 0), Rhythm(15, 300)),
        ((86400, 40), Rhythm(10, 10)),
        ((1, 1), Rhythm(5, 5)),
    ],
)
async def test_short_retention_is_looked_after_sooner(state, kept_s, wanted):
    """Who asks for a minute shall not get six."""
    retention_s, outputs_s = kept_s
    assert Rhythm.of(replace(state, retention_s=retention_s, outputs_s=outputs_s)) == wanted


async def test_an_unknown_job_is_told_with_who_answered(state, tmp_path):
    """And why it cannot know."""
    other = await open_state(
        settings(str(tmp_path / "shared"), tmp_path / "sd2", INSTANCE_ID="Pod 7"),
        lambda: None,
        time.time(),
    )
    local, shared = state.unknown("a" * 999), other.unknown("a")
    await other.close()

    assert "STATE_URL" in local.hint
    assert len(local.message) < 400
    assert shared.message == "Pod 7 knows no job 'a'"
    assert "STATE_URL" not in shared.hint
    assert shared.details == {"instance": "Pod 7", "shared": True}
    assert state_process.new_record(state, "a", None).instance == state.instance.id
