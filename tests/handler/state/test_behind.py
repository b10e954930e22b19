"""Records that are written behind their jobs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from handler.state.behind import Behind, create_newest


def over(record, job_id, **facts):
    return record(job_id, phase="succeeded", finished=2000.0, **facts)


async def test_what_is_added_is_written_soon(local, record):
    """One after the other, without anybody asking."""
    behind = Behind(local, pause_s=0.001)
    for number in range(3):
        behind.add(over(record, f"job-{number}"))
    assert len(behind) == 3
    async with asyncio.timeout(10):
        while len(behind):
            await asyncio.sleep(0.001)
    assert (await local.read("job-2")).record.phase == "succeeded"
    assert repr(behind) == "<Behind 0 to write>"
    await behind.close()


async def test_a_flush_does_not_wait_for_what_comes_later(local, record):
    """Else a list of jobs would never end under a flood."""
    behind = Behind(local, pause_s=60)
    first = over(record, "a")
    behind.add(first)
    for number in range(20):
        behind.add(over(record, f"early-{number}"))
    flushing = asyncio.create_task(behind.flush())
    for number in range(20):
        await asyncio.sleep(0)
        behind.add(over(record, f"late-{number}"))
    await flushing
    assert await local.read("early-19") is not None
    assert len(behind) > 0
    await behind.close()


async def test_who_goes_away_in_the_middle_loses_nothing(local, record):
    """The record is written by the next."""
    behind = Behind(local, pause_s=60)
    for number in range(8):
        behind.add(over(record, f"job-{number}"))
    for _ in range(8):
        flushing = asyncio.create_task(behind.flush())
        await asyncio.sleep(0.001)
        flushing.cancel()
        await asyncio.wait({flushing})
    await behind.flush()
    for number in range(8):
        assert await local.read(f"job-{number}") is not None
    await behind.close()


async def test_under_a_flood_the_oldest_are_never_written(local, record):
    """Memory is bounded."""
    behind = Behind(local, most=10, pause_s=60)
    for number in range(50):
        behind.add(over(record, f"job-{number}"))
    assert len(behind) == 10
    await behind.flush()
    assert await local.read("job-49") is not None
    assert await local.read("job-10") is None
    await behind.close()


async def test_a_place_that_is_away_costs_the_record_only(local, record, tmp_path, caplog):
    """It is said, and the next one is written when it is back."""
    behind = Behind(local)
    aside = tmp_path / "state" / ".aside"
    aside.rename(tmp_path / "away")
    aside.write_text("no folder")
    behind.add(over(record, "a"))
    await behind.flush()
    assert "job a is not recorded" in caplog.text
    aside.unlink()
    (tmp_path / "away").rename(aside)
    behind.add(over(record, "b"))
    await behind.flush()
    assert await local.read("b") is not None
    await behind.close()


async def test_only_the_newest_run_of_an_id_is_written(local, record):
    """Nor is one that goes on overwritten; one that was written already may be again."""
    old, new = over(record, "a"), over(record, "a")
    assert await create_newest(local, new)
    assert not await create_newest(local, old)
    assert await create_newest(local, new)
    newest = over(record, "a")
    assert await create_newest(local, newest)
    going = record("b")
    await local.create(going)
    assert not await create_newest(local, over(record, "b"))
    assert not await create_newest(local, replace(going, phase="succeeded"))
    assert (await local.read("b")).record == going
