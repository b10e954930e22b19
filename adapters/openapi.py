"""The OpenAPI document: true schemas of what is taken and answered."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from adapters.openapi_jobs import job_paths
from adapters.openapi_models import ANSWERS
from adapters.openapi_parts import ERRORS, REF, answer, get, id_parameter, json_content
from adapters.openapi_prompt import prompt_operation, with_targets
from adapters.openapi_redeliver import REDELIVER_ANSWERS
from handler.models.download_request import DownloadRequest
from handler.payload import PromptRequest
from handler.targets import Targets
from handler.version import VERSION

PROBES = {
    "/health": ("health", "200 while it works or can recover, else 500", "HealthAnswer", "500"),
    "/ready": ("ready", "200 when a job may be sent here", "ProbeAnswer", "503"),
    "/health/startup": ("started", "200 once boot and warmup ended", "ProbeAnswer", "503"),
    "/health/live": ("live", "503 only when it cannot recover", "ProbeAnswer", "503"),
    "/health/ready": ("health_ready", "The same as /ready", "ProbeAnswer", "503"),
}


def document() -> dict[str, Any]:
    """Make the document, OpenAPI 3.1."""
    requests = [(one, "validation") for one in (PromptRequest, Targets, DownloadRequest)]
    answers = [(model, "serialization") for model in (*ANSWERS, *REDELIVER_ANSWERS)]
    _, schemas = models_json_schema([*requests, *answers], ref_template=REF)  # type: ignore[list-item]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "comfyfn",
            "version": VERSION,
            "description": "ComfyUI workflows as a stateless API.",
        },
        "paths": _tagged(_paths()),
        "components": {"schemas": with_targets(schemas["$defs"])},
    }


def _paths() -> dict[str, Any]:
    return {
        "/prompt": {"post": prompt_operation()},
        **job_paths(),
        "/models": {"get": _models()},
        "/download": {"post": _download()},
        "/downloads": {"get": get("list_downloads", "List the downloads", "DownloadsAnswer")},
        "/downloads/{id}": {
            "get": _one_download("get_download", "Tell how a download is"),
            "delete": _one_download("delete_download", "End a download"),
        },
        "/downloads/{id}/cancel": {"post": _one_download("cancel_download", "End a download")},
        **{path: {"get": get(*probe)} for path, probe in PROBES.items()},
        "/ping": {"get": _ping()},
        "/metrics": {"get": _metrics()},
    }


def _tagged(paths: dict[str, Any]) -> dict[str, Any]:
    """Sort the operations under the headings that the page shows."""
    for path, methods in paths.items():
        of_models = path.startswith(("/models", "/download"))
        of_worker = path in PROBES or path in ("/ping", "/metrics")
        heading = "health" if of_worker else "models" if of_models else "jobs"
        for operation in methods.values():
            operation["tags"] = [heading]
    return paths


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
            "502": answer("The engine did not answer.", "ErrorAnswer"),
            "503": answer("The worker is not ready.", "ErrorAnswer"),
        },
    }


def _ping() -> dict[str, Any]:
    operation = get("ping", "As RunPod's load balancers ask", "ProbeAnswer", "503")
    operation["responses"]["204"] = {"description": "Not yet, or not for the moment."}
    return operation


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
    body = json_content("DownloadRequest")
    examples: dict[str, dict[str, Any]] = {
        "in the background": {"url": "https://example.com/models/add-detail.safetensors"},
        "waiting for it": {"url": "s3://my-bucket/detail.safetensors", "wait": True},
    }
    body["application/json"]["examples"] = {
        name: {"value": {**keys, "model_type": "loras"}} for name, keys in examples.items()
    }
    told = ("400", "413", "415", "500", "503")
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
            "200": answer("It is there.", "DownloadCompleted"),
            "202": answer("It goes on in the background.", "DownloadStarted"),
            **{status: answer(ERRORS[status], "ErrorAnswer") for status in told},
            "409": answer("Another file has that name.", "ErrorAnswer"),
            "429": answer("Too many downloads wait already.", "ErrorAnswer"),
            "499": answer("The download was cancelled.", "ErrorAnswer"),
            "502": answer("The source did not answer, or not with the file.", "ErrorAnswer"),
            "507": answer("The disk is full.", "ErrorAnswer"),
        },
    }


def _one_download(name: str, about: str) -> dict[str, Any]:
    return {
        "summary": about,
        "operationId": name,
        "parameters": [id_parameter()],
        "responses": {
            "200": answer("How it is.", "DownloadRecord"),
            "404": answer("No such download is known here.", "ErrorAnswer"),
        },
    }
