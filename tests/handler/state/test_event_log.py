"""Events of jobs on disk."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from handler.state.event_log import EventLog, EventLogs, LoggedEvent

UID = "a" * 32


def event(seq, kind="phase", **data):
    return LoggedEvent(seq, kind, data)


@pytest.fixture
def files(tmp_path):
    return EventLog(tmp_path / "events", most=8, most_bytes=4000)


@pytest.fixture
async def logs(tmp_path):
    made = EventLogs(EventLog(tmp_path / "events"))
    yield made
    await made.close()


def seqs(events):
    return [one.seq for one in events]


def test_another_process_reads_what_was_written(files, tmp_path):
    """From where its reader was, in order."""
    told = [event(n, text="猫", n=n) for n in range(1, 6)]
    files.append(UID, told[:3])
    files.append(UID, told[3:])

    again = EventLog(tmp_path / "events")
    assert again.read(UID) == told
    assert seqs(again.read(UID, 3)) == [4, 5]
    assert again.read(UID, 5) == []
    assert again.read("b" * 32) == []


def test_a_line_that_a_crash_cut_is_passed_over(files):
    """And the next one is whole."""
    files.append(UID, [event(1), event(2)])
    path = files._path(UID)
    path.write_bytes(path.read_bytes()[:-9])
    files.append(UID, [event(3)])

    assert seqs(files.read(UID)) == [1, 3]


def test_a_file_is_bounded_and_steps_go_first(files):
    """What tells that something happened stays longest; the end always."""
    for seq in range(1, 200):
        files.append(UID, [event(seq, "output" if seq % 40 == 0 else "progress")])
    files.append(UID, [event(200, "succeeded")])
    assert files._path(UID).read_bytes().count(b"\n") <= 17
    files.close(UID)

    left = files.read(UID)
    assert seqs(left)[-1] == 200
    assert {40, 80, 120, 160} <= set(seqs(left))
    assert len(left) == 8


def test_large_events_are_bounded_in_bytes(files):
    """The newest stays however large it is."""
    for seq in range(1, 20):
        files.append(UID, [event(seq, text="x" * 1500)])
    files.close(UID)
    assert files._path(UID).stat().st_size <= 4000

    files.append(UID, [event(20, text="x" * 9000)])
    files.close(UID)
    assert seqs(files.read(UID)) == [20]


def test_events_that_are_no_json_are_told_without_their_data(files):
    """ComfyUI may tell what has no UTF-8."""
    files.append(UID, [event(1, text="\ud800"), event(2, n={1: 2})])

    assert [one.data for one in files.read(UID)] == [{}, {"n": {"1": 2}}]


@pytest.mark.parametrize("uid", ["", "..", "../a", "a/b", "A", "a" * 65])
def test_a_uid_is_no_path(files, uid):
    """It comes from records that others may have written."""
    with pytest.raises(ValueError, match="uid"):
        files.read(uid)


def test_old_files_go(files):
    """With their folders; those that are written to stay."""
    files.append(UID, [event(1)])
    files.append("b" * 32, [event(1)])
    os.utime(files._path(UID), (1000, 1000))

    assert files.expire(time.time() - 60) == 1
    assert files.read(UID) == []
    assert seqs(files.read("b" * 32)) == [1]
    files.append(UID, [event(2)])
    assert seqs(files.read(UID)) == [2]
    assert EventLog(files._folder / "none").expire(1.0) == 0


async def test_telling_does_not_wait_and_reading_finds_all(logs):
    """Of many jobs at once."""
    for seq in range(1, 51):
        for uid in ("a" * 32, "b" * 32):
            logs.tell(uid, event(seq, "output"), final=seq == 50)

    assert seqs(await logs.read(UID)) == list(range(1, 51))
    assert seqs(await logs.read("b" * 32, 48)) == [49, 50]


async def test_steps_that_come_too_fast_are_not_all_written(logs):
    """The newest one is, and its place among the others is right."""
    logs.tell(UID, event(1))
    for seq in range(2, 500):
        logs.tell(UID, event(seq, "progress", value=seq))
    logs.tell(UID, event(500, "output"))

    assert seqs(await logs.read(UID)) == [1, 499, 500]


async def test_what_is_told_while_a_write_is_under_way_is_written(logs):
    """Nothing waits for the next event."""
    for seq in range(1, 30):
        logs.tell(UID, event(seq))
        await asyncio.sleep(0)
    await logs.settle()

    assert seqs(logs._files.read(UID)) == list(range(1, 30))


async def test_a_full_disk_harms_no_job(logs, tmp_path):
    """It is logged."""
    (tmp_path / "events").write_text("a file")
    logs.tell(UID, event(1))
    await logs.settle()
    (tmp_path / "events").unlink()
    logs.tell(UID, event(2))

    assert seqs(await logs.read(UID)) == [2]
    assert await logs.expire(1.0) == 0
