"""The documented schemas are those of the answers."""

from __future__ import annotations

import pytest
from http_worker import PAYLOAD, served
from receiver import receiving
from sources.puts import storing
from worker import GRAPH

from adapters.openapi_models import (
    ANSWERS,
    CancelAnswer,
    ErrorAnswer,
    HealthAnswer,
    InterruptAnswer,
    JobRecord,
    JobsAnswer,
    JobUnfinished,
    ProbeAnswer,
    PromptAccepted,
    PromptAnswer,
    ResultAnswer,
)
from handler.errors import EngineDied
from handler.settings import Settings


def of_schema(model, answer):
    """Check types strictly, and that no key is undocumented."""
    assert set(answer) <= set(model.model_fields)
    return model.model_validate(answer, strict=True)


async def test_answers_are_of_the_documented_schema(tmp_path):
    """Of every route that answers JSON, good and bad."""
    async with served(tmp_path) as (client, _, engine):
        of_schema(PromptAnswer, (await client.post("/prompt", json=PAYLOAD)).json())
        of_schema(JobRecord, (await client.get("/jobs/me")).json())
        of_schema(HealthAnswer, (await client.get("/health")).json())
        of_schema(ProbeAnswer, (await client.get("/ready")).json())
        of_schema(InterruptAnswer, (await client.post("/interrupt", json={"id": "x"})).json())

        async def dies(prompt, files):
            raise EngineDied("gone")
            yield

        engine.script = dies
        of_schema(ErrorAnswer, (await client.post("/prompt", json=PAYLOAD)).json())
        failed = (await client.get("/jobs/me")).json()
        of_schema(JobRecord, failed)
        of_schema(ErrorAnswer, failed["error"])


async def test_answers_of_jobs_that_go_on_are_of_the_documented_schema(tmp_path):
    """Accepted, unfinished, done and replayed, with every kind of thing that is repeated."""
    async with (
        storing() as store,
        receiving() as receiver,
        served(tmp_path, Settings(url_allow_hosts="127.0.0.1")) as (client, _, _),
    ):
        payload = {
            **PAYLOAD,
            "http_upload": {"url_prefix": store.url("/in")},
            "webhook_v2": receiver.url(),
            "convert_output": {"format": "webp"},
            "archive": "zip",
        }
        headers = {"Idempotency-Key": "k"}
        accepted = await client.post("/prompt", json=payload, headers=headers)
        of_schema(PromptAccepted, accepted.json())
        unfinished = await client.get("/jobs/me/result")
        if unfinished.status_code == 202:
            of_schema(JobUnfinished, unfinished.json())
        await client.get("/jobs/me/events")
        await receiver.got(1)
        of_schema(JobRecord, (await client.get("/jobs/me")).json())
        of_schema(ResultAnswer, (await client.get("/jobs/me/result")).json())
        of_schema(JobsAnswer, (await client.get("/jobs")).json())
        of_schema(CancelAnswer, (await client.post("/jobs/me/cancel")).json())

        for name in ("first", "again"):
            answer = await client.post(
                "/prompt", json={"prompt": GRAPH}, headers={"Idempotency-Key": "sync"}
            )
            assert answer.status_code == 200, name
            of_schema(PromptAnswer, answer.json())


@pytest.mark.parametrize("model", ANSWERS, ids=lambda model: model.__name__)
def test_every_schema_says_what_it_is(model):
    """The page of the documentation shows it."""
    assert model.__doc__
