"""The OpenAPI entry of `POST /prompt`, with examples that run."""

from __future__ import annotations

from typing import Any

from adapters.openapi_parts import ERRORS, REF, answer, header_table, json_content, parameter

PNG_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mMwTjuDFTEMLQkAuYZZQW4mhPwAAAAA"
    "SUVORK5CYII="
)
MINIMAL_GRAPH: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 256, "height": 256, "batch_size": 1, "color": 3368652},
    },
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "demo"}},
}
HEADERS = {
    "Idempotency-Key": (
        "1 to 255 printable ASCII characters: sent again, the same payload is not run again but "
        "answered with the result of the first run"
    ),
    "Prefer": (
        "`respond-async`: answer 202 at once. `respond-async, wait=10`: the result if it is there "
        "within 10 seconds, else 202"
    ),
    "traceparent": "the caller's trace (W3C)",
}
_COMMON = {"X-Comfyfn-Id": "The job's id, percent-encoded.", "traceparent": "The job's span."}
_DONE = {
    **_COMMON,
    "X-Comfyfn-Engine": "Which engine ran the job.",
    "Idempotent-Replayed": "`true` where the key was known and nothing was run for this request.",
}
_ACCEPTED = {
    **_COMMON,
    "Location": "Where the job is asked for.",
    "Preference-Applied": "`respond-async` where that was asked for.",
    "Idempotent-Replayed": _DONE["Idempotent-Replayed"],
}


def prompt_operation() -> dict[str, Any]:
    """Give the operation."""
    raw = {"schema": {"type": "string", "format": "binary"}}
    kinds = ("image/*", "video/*", "application/zip", "multipart/mixed")
    content = {**json_content("PromptAnswer"), **dict.fromkeys(kinds, raw)}
    body = json_content("PromptRequest")
    body["application/json"]["examples"] = _examples()
    return {
        "summary": "Run a graph",
        "description": (
            "Runs a graph in API format and answers with all it produced. "
            "With `Accept: image/*`, `video/*` or `multipart/mixed` the bytes come raw; "
            "`X-Comfyfn-Engine` and `X-Comfyfn-Id` tell which engine ran the job, and its id. "
            "A client that goes away cancels its job, unless it sent an `Idempotency-Key`. "
            "A webhook, an upload with `async`, or `Prefer: respond-async` is answered with 202."
        ),
        "operationId": "run_prompt",
        "parameters": [parameter(name, about, "header") for name, about in HEADERS.items()],
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": {
                "description": "What the run produced.",
                "content": content,
                "headers": header_table(_DONE),
            },
            "202": answer("The job goes on.", "PromptAccepted", _ACCEPTED),
            **{status: answer(about, "ErrorAnswer") for status, about in ERRORS.items()},
        },
    }


def _examples() -> dict[str, Any]:
    embedded = {
        "1": {"class_type": "LoadImage", "inputs": {"image": f"data:image/png;base64,{PNG_PIXEL}"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "inv"}},
    }
    bearer = {"type": "bearer", "token": "the token that files.example.com gave you"}
    webp = {"format": "webp", "options": {"quality": 90}}
    credentials = [{"url_pattern": "https://files.example.com/**", "auth": bearer}]
    return {
        "an image from nothing": {"value": {"prompt": MINIMAL_GRAPH}},
        "an image sent along": {"value": {"prompt": embedded}},
        "converted to WebP": {"value": {"prompt": MINIMAL_GRAPH, "convert_output": webp}},
        "files that want a login": {"value": {"prompt": MINIMAL_GRAPH, "credentials": credentials}},
    }


def with_targets(schemas: dict[str, Any]) -> dict[str, Any]:
    """Give the schemas with the upload objects among the keys of a request."""
    request, targets = schemas["PromptRequest"], schemas["Targets"]
    uploads = {
        name: {**schema, "description": _about(schema, schemas)}
        for name, schema in targets["properties"].items()
    }
    whole = {**request, "properties": {**request["properties"], **uploads}}
    return {**schemas, "PromptRequest": whole}


def _about(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Give the first line of what is said of an upload object."""
    refs = (one["$ref"] for one in schema["anyOf"] if "$ref" in one)
    name = next(refs).removeprefix(REF.format(model=""))
    told: str = schemas[name]["description"]
    return told.partition("\n")[0]
