"""The RunPod worker's work in the local server, on the engine in memory."""

from __future__ import annotations

from types import SimpleNamespace

from worker import GRAPH, worker

from adapters.runpod_api_records import QueuedJob
from adapters.runpod_api_work import LocalWork, as_posted
from handler.settings import Settings


def a_job(**facts):
    return QueuedJob("a-u1", sync=False, created=0.0, ttl_s=60.0, **facts)


async def taken(home, job, given, **settings):
    settings = Settings(**settings)
    async with worker(home, settings) as (handler, engine):
        site = SimpleNamespace(folders=engine.files._folders)
        work = LocalWork(handler, settings, site, lambda: False)
        try:
            return await work.take(job, {"id": "a-u1", "input": given})
        finally:
            work.leave()


async def test_a_job_gives_what_the_worker_posts(tmp_path):
    """Its answer as output, under the id that RunPod has for it."""
    posted = await taken(tmp_path, a_job(), {"prompt": GRAPH})
    assert list(posted) == ["output"]
    assert posted["output"]["id"] == "a-u1"
    assert len(posted["output"]["images"]) == 1


async def test_an_error_is_beside_the_rest_of_its_envelope(tmp_path):
    """As the SDK splits it."""
    posted = await taken(tmp_path, a_job(), {"prompt": {}})
    assert posted["error"] == posted["output"]["message"]
    assert posted["output"]["code"] == "no_output_node"


async def test_another_try_has_the_id_of_the_first(tmp_path):
    """As RunPod hands it out."""
    posted = await taken(tmp_path, a_job(retries=2), {"prompt": GRAPH})
    assert posted["output"]["id"] == "a-u1"


async def test_a_worker_that_streams_gives_its_items_as_they_come(tmp_path):
    """And all of them at the end."""
    job = a_job()
    posted = await taken(tmp_path, job, {"prompt": GRAPH}, runpod_stream=True)
    assert [item["type"] for item in posted["output"]] == ["output", "result"]
    assert list(job.chunks) == posted["output"]


async def test_a_stream_that_fails_has_its_text_alone(tmp_path):
    """What RunPod keeps of it; the items before tell more."""
    job = a_job()
    posted = await taken(tmp_path, job, {"prompt": {}}, runpod_stream=True)
    assert list(posted) == ["error"]
    assert job.chunks[-1]["code"] == "no_output_node"


def test_keys_of_the_sdk_are_not_output():
    """`error` is beside it; `refresh_worker` is for the platform."""
    assert as_posted({"a": 1, "refresh_worker": True}) == {"output": {"a": 1}}
    assert as_posted({"error": "x"}) == {"error": "x"}
    assert as_posted({"error": "", "a": 1}) == {"output": {"a": 1}}
