"""Workers that are alive, and those that are not."""

from __future__ import annotations

import asyncio
import fcntl
import os

import pytest

from handler.state.instances import Instances, Watch, safe_instance, take_instance


def test_a_name_is_the_same_after_a_restart(tmp_path):
    """And another process that lives beside it has another."""
    first = take_instance(tmp_path)
    beside = take_instance(tmp_path)
    assert first.id != beside.id
    first.close()
    first.close()

    again = take_instance(tmp_path)
    assert again.id == first.id
    again.close()
    beside.close()


def test_workers_that_are_called_the_same_are_told_apart(tmp_path):
    """An INSTANCE_ID may be in the image; on two machines, or twice on one."""
    made = [take_instance(tmp_path / place, "Pod/7") for place in ("a", "a", "b")]

    assert {one.name for one in made} == {"Pod/7"}
    assert len({one.id for one in made}) == 3
    assert all(one.id.startswith("pod-7-") for one in made)
    for one in made:
        one.close()


def test_a_damaged_name_file_is_written_anew(tmp_path):
    """A crash may leave it empty, or worse."""
    take_instance(tmp_path).close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"\xff/..")

    with_lock = take_instance(tmp_path)
    with_lock.close()
    assert safe_instance(with_lock.id) == with_lock.id
    again = take_instance(tmp_path)
    again.close()
    assert again.id == with_lock.id


@pytest.mark.parametrize(
    ("name", "safe"), [("A b/../c", "a-b-..-c"), ("...", "worker"), ("", "worker"), ("é", "worker")]
)
def test_names_may_be_a_part_of_a_key(name, safe):
    """Whatever a host is called."""
    assert safe_instance(name) == safe
    assert len(safe_instance("x" * 500)) == 80


def test_a_sign_that_changes_is_a_living_worker():
    """Judged by our clock alone: theirs may be wrong by minutes."""
    watch = Watch(60)
    looks = [watch.look("w", 100.0 + n, 400.0 + n, float(n)) for n in range(0, 300, 30)]

    assert not any(looks)


def test_a_sign_that_stays_is_a_lost_worker():
    """After as long as it takes, from when it was seen first."""
    watch = Watch(60)
    looks = [watch.look("w", 100.0, 110.0 + t, t) for t in (0, 30, 60, 61)]

    assert looks == [False, False, False, True]
    assert not watch.look("w", 161.0, 171.0, 62)
    watch.keep_only(set())
    assert not watch.look("w", 161.0, 500.0, 500)


def test_no_sign_at_all_is_a_lost_worker_in_the_end():
    """It closed, and left a job."""
    watch = Watch(60)
    looks = [watch.look("w", None, t, t) for t in (0.0, 30.0, 60.0, 61.0)]

    assert looks == [False, False, False, True]


def test_a_place_that_was_away_loses_nobody():
    """Nobody could give a sign meanwhile: they have time to, when it is back."""
    watch = Watch(60)
    watch.look("w", 100.0, 110.0, 0.0)

    assert not watch.look("w", 100.0, 5110.0, 5000.0)
    assert not watch.look("w", 5105.0, 5120.0, 5010.0)


def test_a_sign_of_long_ago_needs_no_watching():
    """A worker that is new here knows at once."""
    assert Watch(60).look("w", 100.0, 1000.0, 0.0)


async def test_the_jobs_of_a_lost_worker_have_failed(worker, record):
    """Of two that look, one is told of each; the living worker's stay."""
    a, b = worker(), worker()
    lost, alive = record("a", instance="gone"), record("b", instance="w3")
    done = record("c", instance="gone", phase="succeeded", finished=1.0)
    for one in (lost, alive, done):
        await a.create(one)
    watching = [Instances(a, "w1"), Instances(b, "w2")]
    living = Instances(worker(), "w3")

    told = []
    for clock in (0.0, 30.0, 60.0, 61.0):
        await living.beat(5000.0 + clock)
        found = await asyncio.gather(*(one.orphans(5000.0 + clock, clock) for one in watching))
        told += [one.id for ended in found for one in ended]
    assert told == ["a"]
    failed = (await b.read("a")).record
    assert (failed.phase, failed.retryable, failed.finished) == ("failed", True, 5061.0)
    assert failed.error["details"] == {"instance": "gone", "phase": "received"}
    assert (await b.read("b")).record == alive
    assert (await b.read("c")).record == done
    assert watching[0].lost("gone")
    assert not watching[0].lost("w3")
    assert a.blobs.names("active/gone/") == []

    await living.beat(5070.0)
    assert await watching[0].orphans(5070.0, 70.0) == []
    assert not watching[0].lost("gone")  # nothing of it is left


async def test_ones_own_jobs_of_before_have_failed_at_once(store, record):
    """Whoever opens has none yet; another worker's are not touched."""
    mine, other = record("a"), record("b", instance="w2")
    await store.create(mine)
    await store.create(other)

    (ended,) = await Instances(store, "w1").open(5000.0)
    assert ended.id == "a"
    assert ended.error["code"] == "worker_lost"
    assert (await store.read("b")).record == other
    assert await Instances(store, "w1").open(5001.0) == []


async def test_signs_of_long_ago_are_forgotten(store):
    """And one's own goes with its worker."""
    old, new = Instances(store, "old"), Instances(store, "new")
    await old.beat(1000.0)
    await new.open(1000.0 + 86_500)
    assert store.blobs.names("instances/") == ["instances/new"]

    await new.close()
    assert store.blobs.names("instances/") == []


def test_the_lock_is_the_kernels(tmp_path):
    """However the process ends, the name is free then."""
    held = take_instance(tmp_path)
    (path,) = tmp_path.iterdir()
    handle = os.open(path, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    held.close()
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)


def test_copies_of_a_worker_part(tmp_path):
    """Each has an id that nobody else has; the one that they had stays the file's."""
    first = take_instance(tmp_path, "pod")
    before = first.id
    first.renew("pod")
    renewed = first.id
    first.renew("task-2")

    assert len({before, renewed, first.id}) == 3
    assert first.id.startswith("task-2-")
    assert take_instance(tmp_path, "pod").id == before
