"""Pieces that the operations of the OpenAPI document are made of."""

from __future__ import annotations

from typing import Any

REF = "#/components/schemas/{model}"

ERRORS = {
    "400": "The request is at fault; `details` lists every fault.",
    "406": "No output is of an accepted type, and JSON is not accepted either.",
    "409": "The id or the idempotency key stands for another payload.",
    "410": "The job is over, and its result is not kept any more.",
    "413": "The body is over MAX_BODY_SIZE_MB.",
    "415": "The body is not JSON.",
    "422": "An output cannot be converted as asked, or the result is larger than may be answered.",
    "429": "As many jobs wait as MAX_QUEUE_DEPTH allows.",
    "499": "The job was cancelled.",
    "500": "A node raised; the node, its exception and message are told.",
    "502": "The engine ended under the job, or a storage did not take an output; those are kept.",
    "503": "The worker is not ready, draining, or was busy for too long.",
    "504": "The job, or the run's silence, was longer than its limit.",
}


def json_content(model: str, example: Any = None) -> dict[str, Any]:
    """Give the content of a JSON body."""
    content: dict[str, Any] = {"schema": {"$ref": REF.format(model=model)}}
    if example is not None:
        content["example"] = example
    return {"application/json": content}


def answer(about: str, model: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Give a JSON response.

    Args:
        headers: what each is for, by name.
    """
    told: dict[str, Any] = {"description": about, "content": json_content(model)}
    return {**told, "headers": header_table(headers)} if headers else told


def header_table(headers: dict[str, str]) -> dict[str, Any]:
    """Give the headers of a response by what each is for."""
    text = {"type": "string"}
    return {name: {"description": about, "schema": text} for name, about in headers.items()}


def parameter(
    name: str, about: str, where: str = "query", schema: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Give a parameter that may be left out."""
    schema = schema or {"type": "string"}
    return {"name": name, "in": where, "description": about, "schema": schema}


def id_parameter(name: str = "id") -> dict[str, Any]:
    """Give a part of the path."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def get(name: str, about: str, model: str, bad: str | None = None) -> dict[str, Any]:
    """Give an operation that only tells something.

    Args:
        bad: status of the answer where things are not as they should be.
    """
    responses = {"200": answer("Fine.", model)}
    if bad is not None:
        responses[bad] = answer("Not so; the body tells why.", model)
    return {"summary": about, "operationId": name, "responses": responses}
