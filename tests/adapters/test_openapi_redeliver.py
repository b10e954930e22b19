"""The entry of re-deliveries in the OpenAPI document."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema

from adapters.openapi_redeliver import (
    PATH,
    REDELIVER_ANSWERS,
    RedeliverAccepted,
    redeliver_operation,
)
from handler.records import TARGET_KINDS
from handler.redelivery import parse_targets
from handler.targets import Targets


def test_every_example_is_a_payload():
    """They are there to be sent."""
    content = redeliver_operation()["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        assert parse_targets(example["value"])


def test_its_schemas_can_be_made():
    """Under the names that the operation refers to, beside that of errors."""
    models = [(Targets, "validation"), *((one, "serialization") for one in REDELIVER_ANSWERS)]
    _, schemas = models_json_schema(models)
    told = repr(redeliver_operation())

    named = {name for name in (*schemas["$defs"], "ErrorAnswer") if f"schemas/{name}'" in told}
    assert named == {"Targets", "RedeliverAnswer", "RedeliverAccepted", "ErrorAnswer"}
    assert PATH.startswith("/jobs/{id}/")


def test_an_answer_may_repeat_every_target():
    """And nothing that is not documented."""
    known = {kind: {"async": True} for kind in TARGET_KINDS}

    assert RedeliverAccepted.model_validate({"id": "x", "status": "ok", **known})
    with pytest.raises(ValidationError):
        RedeliverAccepted.model_validate({"id": "x", "status": "ok", "more": 1})
