"""Records that are written behind the backs of their jobs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from handler.state.recorder import Recorder


def staged(name):
    return lambda one: replace(one, stats={**one.stats, "seen": [*one.stats.get("seen", []), name]})


def ended(one):
    return replace(one, phase="succeeded", finished=2000.0)


@pytest.fixture
async def running(local, record):
    one = record("a")
    await local.create(one)
    return one


async def test_changes_are_written_in_order(local, running):
    """All that came while one was being written, at once."""
    recorder = Recorder(local)
    for name in "abcdef":
        recorder.note("a", running.uid, staged(name))
        await asyncio.sleep(0)
    recorder.note("a", running.uid, ended)
    await recorder.settle(running.uid)

    found = await local.read("a")
    assert found.record.stats["seen"] == list("abcdef")
    assert found.record.final
    assert int(found.version.split()[0]) < 6
    assert repr(recorder) == "<Recorder 0 jobs to write>"
    await recorder.settle(running.uid)
    assert await recorder.drain()


async def test_the_end_is_written_when_the_place_answers_again(local, running, tmp_path):
    """A volume was away while the job ended."""
    recorder = Recorder(local, 0.01, 0.02)
    jobs = tmp_path / "state" / ".aside"
    jobs.rename(tmp_path / "away")
    recorder.note("a", running.uid, ended)
    assert not await recorder.drain(0.1)
    recorder.note("a", running.uid, ended)
    settled = asyncio.create_task(recorder.settle(running.uid))
    done, _ = await asyncio.wait({settled}, timeout=0.1)
    assert not done

    (tmp_path / "away").rename(jobs)
    await asyncio.wait_for(settled, 10)
    assert (await local.read("a")).record.final


async def test_a_run_without_a_record_has_none(local, running):
    """Another run has its place: nothing is written, and nothing waits."""
    recorder = Recorder(local)
    recorder.note("a", "f" * 32, ended)
    recorder.note("b", "e" * 32, ended)
    await recorder.settle("f" * 32)

    assert await recorder.drain()
    assert not (await local.read("a")).record.final


async def test_a_change_that_fails_is_passed_over(local, running):
    """A fault of ours must not keep the end from being written."""
    recorder = Recorder(local)
    recorder.note("a", running.uid, lambda _: 1 / 0)
    await recorder.settle(running.uid)
    recorder.note("a", running.uid, ended)
    await recorder.settle(running.uid)

    assert (await local.read("a")).record.final


async def test_a_late_change_is_written_where_the_run_is_over(local, running):
    """All others leave such a record alone; one that changes nothing is not written at all."""

    def told(one):
        return replace(one, webhooks={"webhook_v2": {"status": "delivered"}})

    recorder = Recorder(local)
    recorder.note("a", running.uid, ended)
    await recorder.drain()
    recorder.note("a", running.uid, staged("late"))
    recorder.note("a", running.uid, told, late=True)
    assert await recorder.drain()
    found = await local.read("a")
    assert (found.record.webhooks, found.record.stats) == (told(found.record).webhooks, {})

    recorder.note("a", running.uid, told, late=True)
    assert await recorder.drain()
    assert (await local.read("a")).version == found.version


async def test_nobody_waits_for_late_changes(local, running):
    """Not who comes with the same id, nor who lists jobs; the end of the process does."""
    recorder = Recorder(local)
    async with recorder._late_pen, recorder._late_pen:  # as if two were being written
        recorder.note("a", running.uid, staged("late"), late=True)
        await asyncio.wait_for(recorder.settle(running.uid), 1)
        await asyncio.wait_for(recorder.settle_all(), 1)
        assert (await local.read("a")).record.stats == {}
    assert await recorder.drain()
    assert (await local.read("a")).record.stats == {"seen": ["late"]}
