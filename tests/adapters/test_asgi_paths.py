"""Ids in paths: any text, told from the routes by how it is quoted."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Match
from worker import serving

from adapters.asgi_paths import AnyText, JobRoute, job_path


def test_ids_are_any_text_in_a_path():
    """The converter gives what it gets, both ways."""
    converter = AnyText()
    assert converter.convert("a/b\n") == converter.to_string("a/b\n") == "a/b\n"


def routes():
    """Two routes that tell what they understood."""

    def telling(name):
        async def tell(request):
            return JSONResponse({name: request.path_params})

        return tell

    return [
        JobRoute("/jobs/{id:any_text}/outputs/{name}", telling("output")),
        JobRoute("/jobs/{id:any_text}/events", telling("events")),
        JobRoute("/jobs/{id:any_text}", telling("job")),
    ]


@pytest.mark.parametrize(
    ("path", "understood"),
    [
        ("/jobs/a", {"job": {"id": "a"}}),
        ("/jobs/a/events", {"events": {"id": "a"}}),
        ("/jobs/a%2Fevents", {"job": {"id": "a/events"}}),
        ("/jobs/a%2Fevents/events", {"events": {"id": "a/events"}}),
        ("/jobs/a/b", {"job": {"id": "a/b"}}),
        ("/jobs/a/b/events", {"events": {"id": "a/b"}}),
        ("/jobs/a/events/events", {"events": {"id": "a/events"}}),
        ("/jobs/a%252Fb", {"job": {"id": "a%2Fb"}}),
        ("/jobs/%0A%20%C3%BC%3F%23", {"job": {"id": "\n ü?#"}}),
        ("/jobs/a/outputs/x%20y%2Fz.png", {"output": {"id": "a", "name": "x y/z.png"}}),
        ("/jobs/a%2Foutputs%2Fb/outputs/c", {"output": {"id": "a/outputs/b", "name": "c"}}),
        ("/jobs/a/outputs/b/c", {"job": {"id": "a/outputs/b/c"}}),
    ],
)
async def test_a_quoted_slash_is_of_the_id(path, understood):
    """A plain one separates, as far as that can be told."""
    async with serving(Starlette(routes=routes())) as client:
        assert (await client.get(path)).json() == understood


@pytest.mark.parametrize("job_id", ["a", "a/events", "x y", "ü", "\n", "%2F", "a?b#c", "/", "//"])
async def test_the_path_of_a_job_leads_to_it(job_id):
    """Whatever its id."""
    async with serving(Starlette(routes=routes())) as client:
        answer = await client.get(job_path(job_id))
        events = await client.get(f"{job_path(job_id)}/events")
    assert answer.json() == {"job": {"id": job_id}}
    assert events.json() == {"events": {"id": job_id}}


def test_a_server_that_tells_no_raw_path_is_served():
    """By the decoded path."""
    scope = {"type": "http", "method": "GET", "path": "/jobs/a b/events"}
    match, child = routes()[1].matches(scope)
    assert (match, child["path_params"]) == (Match.FULL, {"id": "a b"})


def test_what_is_no_request_is_left_alone():
    """A WebSocket finds no job."""
    assert routes()[2].matches({"type": "websocket", "path": "/jobs/a"})[0] is Match.NONE
