"""Asking for another node: how often, and what becomes of the worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from dataclasses import replace

import pytest
from platforms.salad_double import ImdsDouble
from worker import until, worker

from adapters.salad_imds import Imds
from adapters.salad_node import LineWatch
from adapters.salad_reallocation import Reallocation
from handler.health import Health

CUDA = {"error": {"error": "no driver", "details": {"cause": "gpu_fault"}}}


@pytest.fixture
def service():
    double = ImdsDouble()
    yield double
    double.close()


class Ailing:
    """A handler whose node is as told."""

    def __init__(self, handler, **facts):
        self._handler, self.facts = handler, facts
        self.drained = 0

    def health(self):
        return replace(self._handler.health(), **self.facts)

    async def drain(self):
        self.drained += 1
        await self._handler.drain(0)


@contextlib.asynccontextmanager
async def watching(home, service, *, most=3, line=None, **facts):
    async with worker(home) as (handler, _), Imds(service.url) as imds:
        ailing = Ailing(handler, **facts)
        line = line or LineWatch(0, 1)
        wish = Reallocation(ailing, imds, line, most=most, look_s=0.01, pause_s=0.02)
        assert f"at most {most}" in repr(wish)
        task = asyncio.create_task(wish.watch())
        try:
            yield ailing, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_healthy_worker_asks_for_nothing(tmp_path, service):
    """It goes on watching."""
    async with watching(tmp_path, service) as (ailing, task):
        await asyncio.sleep(0.05)
        assert not task.done()
        ailing.facts["boot"] = CUDA
        await until(lambda: service.reasons)
        assert service.reasons[0] == "broken GPU: no driver"
        await until(lambda: ailing.health().health is Health.DRAINING)


async def test_a_node_that_is_not_taken_away_ends_itself(tmp_path, service, caplog):
    """After so many promises; the platform then starts it anew."""
    taken = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, taken.set)
    try:
        async with watching(tmp_path, service, most=2, boot=CUDA) as (_, task):
            await asyncio.wait_for(taken.wait(), 10)
            await task
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    assert len(service.reasons) == 2
    assert "it ends itself" in caplog.text


async def test_a_wish_that_is_refused_leaves_the_worker_at_work(tmp_path, service, caplog):
    """It takes jobs as it can."""
    caplog.set_level(logging.ERROR)
    service.refusing = True
    async with watching(tmp_path, service, most=2, boot=CUDA) as (ailing, task):
        await asyncio.wait_for(task, 10)
        assert ailing.drained == 0
    assert caplog.text.count("another node was not given") == 2
    assert "goes on as it can" in caplog.text


async def test_none_is_asked_for_where_that_is_off(tmp_path, service, caplog):
    """The reason is told to the log."""
    async with watching(tmp_path, service, most=0, boot=CUDA) as (_, task):
        await asyncio.wait_for(task, 10)
    assert service.reasons == []
    assert "this node is unfit, and SALAD_REALLOCATIONS=0: broken GPU: no driver" in caplog.text


async def test_the_line_is_watched_until_the_worker_is_started(tmp_path, service):
    """Models that come beside the jobs are no reason to end those."""
    slow = {"when": "before_start", "state": "fetching", "bytes": 1, "total": 10**9}
    boot = {"manifest": {"models": [slow]}}
    line = LineWatch(10, 0.01)
    async with watching(tmp_path, service, line=line, boot=boot) as (ailing, _):
        await asyncio.sleep(0.05)
        assert service.reasons == []
        ailing.facts["started"] = False
        await until(lambda: service.reasons)
    assert service.reasons[0].startswith("slow downloads: 0.0 Mbit/s")
