"""What RunPod's load balancers ask for."""

from __future__ import annotations

import pytest
from http_worker import served

from handler.engine.base import EngineState


async def test_a_worker_that_takes_jobs_is_200_until_it_is_drained(tmp_path):
    """Then it is 503: requests go elsewhere."""
    async with served(tmp_path) as (client, handler, _):
        ready = await client.get("/ping")
        await handler.drain(0)
        draining = await client.get("/ping")

    assert (ready.status_code, ready.json()["phase"]) == (200, "ready")
    assert (draining.status_code, draining.json()["phase"]) == (503, "draining")


@pytest.mark.parametrize(
    ("state", "status"),
    [(EngineState.STARTING, 204), (EngineState.RESTARTING, 204), (EngineState.FAILED, 503)],
)
async def test_it_is_204_while_it_can_get_there_by_itself(tmp_path, state, status):
    """Without a body, as 204 has to be."""
    async with served(tmp_path) as (client, _, engine):
        engine.enter(state, "as the test wants it")
        answer = await client.get("/ping")

    assert answer.status_code == status
    assert bool(answer.content) == (status == 503)
