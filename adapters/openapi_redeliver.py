"""The OpenAPI entry of re-deliveries."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from adapters.openapi_models import OutputEntry

PATH = "/jobs/{id}/redeliver"
_REF = "#/components/schemas/{model}"


class RedeliverStats(BaseModel):
    """Where the time went."""

    upload_time: float = Field(description="milliseconds")


class _Echo(BaseModel):
    """The upload objects come back without their secrets."""

    model_config = ConfigDict(extra="forbid")

    id: str
    s3: dict[str, Any] | None = None
    hf_upload: dict[str, Any] | None = None
    azure_blob_upload: dict[str, Any] | None = None
    http_upload: dict[str, Any] | None = None
    gcs_upload: dict[str, Any] | None = None
    presigned: dict[str, Any] | None = None
    volume: dict[str, Any] | None = None


class RedeliverAnswer(_Echo):
    """Where the outputs are now; `images[i]` is the URL of `filenames[i]`."""

    images: list[str]
    filenames: list[str]
    outputs: list[OutputEntry]
    stats: RedeliverStats


class RedeliverAccepted(_Echo):
    """It goes on in the background; `redelivery` of the job tells how it ended."""

    status: Literal["ok"]


REDELIVER_ANSWERS = (RedeliverAnswer, RedeliverAccepted)


def redeliver_operation() -> dict[str, Any]:
    """Give the operation; its body has the upload objects of `POST /prompt`, `Targets`."""
    refused = {
        "400": "No storage is named, or one that cannot be used here.",
        "404": "No such job is known here.",
        "409": "The job is not over.",
        "410": "The outputs are not kept.",
        "413": "The body is too large.",
        "415": "The body is not JSON.",
        "429": "Too many re-deliveries are under way.",
        "502": "A storage did not take an output; all of them stay kept.",
        "503": "The worker is on its way down, or its state cannot be reached.",
    }
    body = _json("Targets")
    body["application/json"]["examples"] = {
        "to a bucket": {"value": {"s3": {"bucket": "my-bucket", "prefix": "again/"}}},
        "in the background": {
            "value": {"http_upload": {"url_prefix": "https://files.example.com/a", "async": True}}
        },
    }
    return {
        "summary": "Bring the kept outputs of a job to a storage",
        "description": (
            "For outputs that a storage refused, or that nobody has fetched yet. They stay kept "
            "until OUTPUT_RETENTION_S is over."
        ),
        "operationId": "redeliver_job",
        "parameters": [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        ],
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": _answer("They are there.", "RedeliverAnswer"),
            "202": _answer("`async` was asked for.", "RedeliverAccepted"),
            **{status: _answer(about, "ErrorAnswer") for status, about in refused.items()},
        },
    }


def _json(model: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}


def _answer(about: str, model: str) -> dict[str, Any]:
    return {"description": about, "content": _json(model)}
