"""The OpenAPI document: true schemas of what is taken and answered, with examples that run."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from adapters.openapi_models import ANSWERS
from handler.models.download_request import DownloadRequest
from handler.payload import PromptRequest
from handler.version import VERSION

REF = "#/components/schemas/{model}"
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


ERRORS = {
    "400": "The request is at fault; `details` lists every fault.",
    "406": "No output is of an accepted type, and JSON is not accepted either.",
    "413": "The body is over MAX_BODY_SIZE_MB.",
    "415": "The body is not JSON.",
    "422": "An output cannot be converted as asked.",
    "429": "As many jobs wait as MAX_QUEUE_DEPTH allows.",
    "499": "The job was cancelled.",
    "500": "A node raised; the node, its exception and message are told.",
    "502": "The engine ended under the job.",
    "503": "The worker is not ready, draining, or was busy for too long.",
    "504": "The job, or the run's silence, was longer than its limit.",
}


PROBES = {
    "/health": ("health", "200 while it works or can recover, else 500", "HealthAnswer", "500"),
    "/ready": ("ready", "200 when a job may be sent here", "ProbeAnswer", "503"),
    "/health/startup": ("started", "200 once boot and warmup ended", "ProbeAnswer", "503"),
    "/health/live": ("live", "503 only when it cannot recover", "ProbeAnswer", "503"),
    "/health/ready": ("health_ready", "The same as /ready", "ProbeAnswer", "503"),
}


def document() -> dict[str, Any]:
    """Make the document, OpenAPI 3.1."""
    requests = [(PromptRequest, "validation"), (DownloadRequest, "validation")]
    answers = [(model, "serialization") for model in ANSWERS]
    _, schemas = models_json_schema([*requests, *answers], ref_template=REF)  # type: ignore[list-item]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "comfyfn",
            "version": VERSION,
            "description": "ComfyUI workflows as a stateless API.",
        },
        "paths": _tagged(_paths()),
        "components": {"schemas": schemas["$defs"]},
    }


def _paths() -> dict[str, Any]:
    return {
        "/prompt": {"post": _prompt()},
        "/interrupt": {"post": _interrupt()},
        "/jobs/{id}": {"get": _get("get_job", "Tell how a job is", "JobAnswer", job_id=True)},
        "/jobs/{id}/events": {"get": _events()},
        "/models": {"get": _models()},
        "/download": {"post": _download()},
        "/downloads": {"get": _get("list_downloads", "List the downloads", "DownloadsAnswer")},
        "/downloads/{id}": {
            "get": _one_download("get_download", "Tell how a download is"),
            "delete": _one_download("delete_download", "End a download"),
        },
        "/downloads/{id}/cancel": {"post": _one_download("cancel_download", "End a download")},
        **{path: {"get": _get(*probe)} for path, probe in PROBES.items()},
        "/metrics": {"get": _metrics()},
    }


def _tagged(paths: dict[str, Any]) -> dict[str, Any]:
    """Sort the operations under the headings that the page shows."""
    for path, methods in paths.items():
        of_models = path.startswith(("/models", "/download"))
        of_worker = path in PROBES or path == "/metrics"
        heading = "health" if of_worker else "models" if of_models else "jobs"
        for operation in methods.values():
            operation["tags"] = [heading]
    return paths


def _json(model: str, example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": REF.format(model=model)}}
    if example is not None:
        content["example"] = example
    return {"application/json": content}


def _answer(about: str, model: str) -> dict[str, Any]:
    return {"description": about, "content": _json(model)}


def _prompt() -> dict[str, Any]:
    raw = {"schema": {"type": "string", "format": "binary"}}
    content = {**_json("PromptAnswer"), "image/*": raw, "video/*": raw, "multipart/mixed": raw}
    embedded = {
        "1": {"class_type": "LoadImage", "inputs": {"image": f"data:image/png;base64,{PNG_PIXEL}"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "inv"}},
    }
    examples: dict[str, Any] = {
        "an image from nothing": {"value": {"prompt": MINIMAL_GRAPH}},
        "an image sent along": {"value": {"prompt": embedded}},
        "converted to WebP": {
            "value": {
                "prompt": MINIMAL_GRAPH,
                "convert_output": {"format": "webp", "options": {"quality": 90}},
            }
        },
    }
    bearer = {"type": "bearer", "token": "the token that files.example.com gave you"}
    examples["files that want a login"] = {
        "value": {
            "prompt": MINIMAL_GRAPH,
            "credentials": [{"url_pattern": "https://files.example.com/**", "auth": bearer}],
        }
    }
    body = _json("PromptRequest")
    body["application/json"]["examples"] = examples
    return {
        "summary": "Run a graph",
        "description": (
            "Runs a graph in API format and answers with all it produced. "
            "With `Accept: image/*`, `video/*` or `multipart/mixed` the bytes come raw; "
            "`X-Comfyfn-Engine` and `X-Comfyfn-Id` tell which engine ran the job, and its id. "
            "A client that goes away cancels its job."
        ),
        "operationId": "run_prompt",
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": {"description": "What the run produced.", "content": content},
            **{status: _answer(about, "ErrorAnswer") for status, about in ERRORS.items()},
        },
    }


def _interrupt() -> dict[str, Any]:
    return {
        "summary": "Stop a job: fetching, queued or running",
        "operationId": "interrupt",
        "requestBody": {"required": True, "content": _json("InterruptRequest", {"id": "my-job"})},
        "responses": {
            "200": _answer("It was told to stop.", "InterruptAnswer"),
            "400": _answer("No id was sent.", "ErrorAnswer"),
            "404": _answer("No unfinished job has that id.", "InterruptAnswer"),
            "413": _answer("The body is too large.", "ErrorAnswer"),
            "415": _answer("The body is not JSON.", "ErrorAnswer"),
        },
    }


def _id_parameter() -> dict[str, Any]:
    return {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}


def _events() -> dict[str, Any]:
    schema = {"schema": {"type": "string"}}
    return {
        "summary": "Follow a job (server-sent events)",
        "description": (
            "`phase`, `progress` (`overall_pct` never falls), `output`, `preview`, and the end: "
            "`succeeded`, `failed` or `cancelled`. `Last-Event-ID` resumes."
        ),
        "operationId": "job_events",
        "parameters": [
            _id_parameter(),
            {"name": "previews", "in": "query", "schema": {"type": "boolean"}},
        ],
        "responses": {
            "200": {"description": "The events.", "content": {"text/event-stream": schema}},
            "404": _answer("No such job is known here.", "ErrorAnswer"),
        },
    }


def _models() -> dict[str, Any]:
    listing = {
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"type": "string"}},
    }
    return {
        "summary": "List the model files by folder",
        "operationId": "list_models",
        "responses": {
            "200": {
                "description": "File names by folder.",
                "content": {"application/json": {"schema": listing}},
            },
            "502": _answer("The engine did not answer.", "ErrorAnswer"),
            "503": _answer("The worker is not ready.", "ErrorAnswer"),
        },
    }


def _metrics() -> dict[str, Any]:
    schema = {"schema": {"type": "string"}}
    kinds = ("text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0")
    about = "The figures of this worker; OpenMetrics for who accepts it."
    return {
        "summary": "Figures for Prometheus",
        "operationId": "metrics",
        "responses": {"200": {"description": about, "content": dict.fromkeys(kinds, schema)}},
    }


def _download() -> dict[str, Any]:
    body = _json("DownloadRequest")
    examples: dict[str, dict[str, Any]] = {
        "in the background": {"url": "https://example.com/models/add-detail.safetensors"},
        "waiting for it": {"url": "s3://my-bucket/detail.safetensors", "wait": True},
    }
    body["application/json"]["examples"] = {
        name: {"value": {**keys, "model_type": "loras"}} for name, keys in examples.items()
    }
    told = ("400", "413", "415", "500", "502", "503")
    return {
        "summary": "Fetch a file into a model folder",
        "description": (
            "Fetches a file once, checks it, and puts it where the engine looks for models. "
            "`wait` answers when it is there; a client that goes away does not end it. "
            "In the background a download ends as `GET /downloads/{id}` tells."
        ),
        "operationId": "download",
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": _answer("It is there.", "DownloadCompleted"),
            "202": _answer("It goes on in the background.", "DownloadStarted"),
            **{status: _answer(ERRORS[status], "ErrorAnswer") for status in told},
            "409": _answer("Another file has that name.", "ErrorAnswer"),
            "429": _answer("Too many downloads wait already.", "ErrorAnswer"),
            "499": _answer("The download was cancelled.", "ErrorAnswer"),
            "507": _answer("The disk is full.", "ErrorAnswer"),
        },
    }


def _one_download(name: str, about: str) -> dict[str, Any]:
    return {
        "summary": about,
        "operationId": name,
        "parameters": [_id_parameter()],
        "responses": {
            "200": _answer("How it is.", "DownloadRecord"),
            "404": _answer("No such download is known here.", "ErrorAnswer"),
        },
    }


def _get(
    name: str, about: str, model: str, bad: str | None = None, *, job_id: bool = False
) -> dict[str, Any]:
    responses = {"200": _answer("Fine.", model)}
    if bad is not None:
        responses[bad] = _answer("Not so; the body tells why.", model)
    operation: dict[str, Any] = {
        "summary": about,
        "operationId": name,
        "responses": responses,
    }
    if job_id:
        operation["parameters"] = [_id_parameter()]
        responses["404"] = _answer("No such job is known here.", "ErrorAnswer")
    return operation
