"""The documented schemas are those of the answers."""

from __future__ import annotations

import pytest
from worker import GRAPH, serving, worker

from adapters.asgi import make_app
from adapters.openapi_models import (
    ANSWERS,
    ErrorAnswer,
    HealthAnswer,
    InterruptAnswer,
    JobRecord,
    ProbeAnswer,
    PromptAnswer,
)
from handler.errors import EngineDied
from handler.settings import Settings


def of_schema(model, answer):
    """Check types strictly, and that no key is undocumented."""
    assert set(answer) <= set(model.model_fields)
    return model.model_validate(answer, strict=True)


async def test_answers_are_of_the_documented_schema(tmp_path):
    """Of every route that answers JSON, good and bad."""
    settings = Settings()
    async with (
        worker(tmp_path) as (handler, engine),
        serving(make_app(handler, settings)) as client,
    ):
        prompt = {"prompt": GRAPH, "id": "me"}
        of_schema(PromptAnswer, (await client.post("/prompt", json=prompt)).json())
        of_schema(JobRecord, (await client.get("/jobs/me")).json())
        of_schema(HealthAnswer, (await client.get("/health")).json())
        of_schema(ProbeAnswer, (await client.get("/ready")).json())
        of_schema(InterruptAnswer, (await client.post("/interrupt", json={"id": "x"})).json())

        async def dies(prompt, files):
            raise EngineDied("gone")
            yield

        engine.script = dies
        of_schema(ErrorAnswer, (await client.post("/prompt", json=prompt)).json())
        failed = (await client.get("/jobs/me")).json()
        of_schema(JobRecord, failed)
        of_schema(ErrorAnswer, failed["error"])


@pytest.mark.parametrize("model", ANSWERS, ids=lambda model: model.__name__)
def test_every_schema_says_what_it_is(model):
    """The page of the documentation shows it."""
    assert model.__doc__
