"""What an engine computes on, and the memory that it takes."""

from __future__ import annotations

import asyncio
import os

import pytest

from handler.engine.usage import Device, UsageMeter, device_of, process_memory
from handler.errors import EngineDied

GIB = 1 << 30


def stats(name="cuda:0 NVIDIA H200 : cudaMallocAsync", kind="cuda", free=100 * GIB):
    device = {"name": name, "type": kind, "index": 0, "vram_total": 140 * GIB, "vram_free": free}
    return {"system": {}, "devices": [device]}


def meter(answers, pid=None):
    """A meter whose engine gives these answers in turn; an exception is raised."""
    waiting = list(answers)

    async def ask():
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    made = UsageMeter(ask, lambda: pid)
    return made, waiting


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("cuda:0 NVIDIA H200 : cudaMallocAsync", "NVIDIA H200"),
        ("cuda:1 NVIDIA GeForce RTX 4090 : native", "NVIDIA GeForce RTX 4090"),
        ("mps", "mps"),
        ("", "cuda"),
    ],
)
def test_a_device_is_named_without_its_index_and_allocator(told, name):
    """As its maker calls it."""
    assert device_of(stats(told)) == Device(name, 140 * GIB)


@pytest.mark.parametrize("told", [{}, {"devices": []}, {"devices": None}, stats("cpu", "cpu")])
def test_a_cpu_is_no_device(told):
    """Nor is what tells none."""
    assert device_of(told) is None


def test_the_memory_of_a_process_is_the_kernels(tmp_path):
    """In bytes, now and at most."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text("Name:\tx\nVmHWM:\t    30 kB\nVmRSS:\t    20 kB\n")

    assert process_memory(7, tmp_path) == (20 << 10, 30 << 10)


def test_a_kernel_without_peaks_gives_what_is_now(tmp_path):
    """Some sandboxes tell less."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text("VmRSS:\t20 kB\n")

    assert process_memory(None, tmp_path) == (20 << 10, 20 << 10)
    assert process_memory(8, tmp_path) == (None, None)


async def test_an_engine_on_the_cpu_is_not_asked_and_has_no_vram():
    """Its process is looked at all the same."""
    made, _ = meter([], os.getpid())
    made.booted(stats("cpu", "cpu"))
    made.ran()
    usage = await made.usage()

    assert usage.rss is not None
    assert usage.rss_peak is not None
    assert usage.rss_peak >= usage.rss > 0
    assert (usage.vram_used, usage.vram_total, usage.vram_peak) == (None, None, None)
    await made.close()


async def test_the_peak_of_vram_is_the_most_that_was_seen():
    """At the boot, after runs, and when asked."""
    made, _ = meter([stats(free=20 * GIB), stats(free=90 * GIB)])
    made.booted(stats())
    made.ran()
    await asyncio.sleep(0)
    usage = await made.usage()

    assert (usage.vram_used, usage.vram_total) == (50 * GIB, 140 * GIB)
    assert usage.vram_peak == 120 * GIB
    assert usage.rss is None  # not our process
    await made.close()


async def test_runs_in_quick_succession_are_looked_at_once():
    """An engine that is busy with small graphs is not asked after each."""
    made, waiting = meter([stats(), stats()])
    made.booted(stats())
    for _ in range(5):
        made.ran()
    await asyncio.sleep(0)

    assert len(waiting) == 1
    await made.close()


async def test_an_engine_that_does_not_answer_has_its_peak_still():
    """A scrape does not fail for it."""
    made, _ = meter([EngineDied("it is gone")])
    made.booted(stats(free=20 * GIB))
    usage = await made.usage()

    assert (usage.vram_used, usage.vram_peak) == (None, 120 * GIB)
