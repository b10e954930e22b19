"""The entries of jobs."""

from __future__ import annotations

import pytest
from http_worker import LATER, PAYLOAD, served

from adapters.openapi_jobs import job_paths
from adapters.openapi_models import ANSWERS

MODELS = {model.__name__: model for model in ANSWERS}
GETS = ("", "/events", "/result", "/archive", "/outputs/x")


def test_what_a_path_has_in_braces_is_a_parameter():
    """Each is explained once."""
    for path, methods in job_paths().items():
        for operation in methods.values():
            named = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"]
            assert named == [part[1:-1] for part in path.split("/") if part.startswith("{")]


@pytest.mark.parametrize("job_id", ["me", "other"])
async def test_answers_are_as_documented(tmp_path, job_id):
    """Status and schema, of a job that is there and of one that is not."""
    async with served(tmp_path) as (client, _, _):
        await client.post("/prompt", json=PAYLOAD, headers=LATER)
        await client.get("/jobs/me/events")
        for path in GETS:
            answer = await client.get(f"/jobs/{job_id}{path}")
            documented("get", f"/jobs/{{id}}{path.replace('/x', '/{name}')}", answer)
        documented("post", "/jobs/{id}/cancel", await client.post(f"/jobs/{job_id}/cancel"))
        documented("get", "/jobs", await client.get("/jobs"))
        documented("get", "/jobs", await client.get("/jobs?limit=x"))


def documented(method, path, answer):
    """Hold an answer against what its path tells."""
    response = job_paths()[path][method]["responses"][str(answer.status_code)]
    kind = answer.headers["content-type"].split(";")[0]
    assert kind in response["content"]
    if kind == "application/json":
        name = response["content"][kind]["schema"]["$ref"].rpartition("/")[2]
        body = answer.json()
        assert set(body) <= set(MODELS[name].model_fields)
        MODELS[name].model_validate(body, strict=True)
