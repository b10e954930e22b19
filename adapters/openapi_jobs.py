"""The OpenAPI entries of jobs that were begun: their state, events, results and outputs."""

from __future__ import annotations

from typing import Any

from adapters.asgi_jobs import PAGE, STATUSES
from adapters.openapi_parts import (
    ERRORS,
    answer,
    header_table,
    id_parameter,
    json_content,
    parameter,
)
from adapters.openapi_redeliver import PATH as REDELIVER
from adapters.openapi_redeliver import redeliver_operation
from handler.stored_jobs import LONGEST_PAGE

BINARY = {"schema": {"type": "string", "format": "binary"}}
_UNKNOWN = "No such job is known here; `hint` says why another worker may know it."
_STATE = "Where records are kept does not answer."


def job_paths() -> dict[str, Any]:
    """Give the paths."""
    return {
        "/interrupt": {"post": _interrupt()},
        "/jobs": {"get": _list()},
        "/jobs/{id}": {"get": _job()},
        "/jobs/{id}/events": {"get": _events()},
        "/jobs/{id}/result": {"get": _result()},
        "/jobs/{id}/outputs/{name}": {"get": _output()},
        "/jobs/{id}/archive": {"get": _archive()},
        "/jobs/{id}/cancel": {"post": _cancel()},
        REDELIVER: {"post": redeliver_operation()},
    }


def _refusals() -> dict[str, Any]:
    return {"404": answer(_UNKNOWN, "ErrorAnswer"), "503": answer(_STATE, "ErrorAnswer")}


def _interrupt() -> dict[str, Any]:
    body = json_content("InterruptRequest", {"id": "my-job"})
    return {
        "summary": "Stop a job: fetching, queued or running",
        "operationId": "interrupt",
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": answer("It was told to stop.", "InterruptAnswer"),
            "400": answer("No id was sent.", "ErrorAnswer"),
            "404": answer("No unfinished job has that id.", "InterruptAnswer"),
            "413": answer("The body is too large.", "ErrorAnswer"),
            "415": answer("The body is not JSON.", "ErrorAnswer"),
            "503": answer(_STATE, "ErrorAnswer"),
        },
    }


def _list() -> dict[str, Any]:
    statuses = {"type": "string", "enum": list(STATUSES)}
    limit = {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE, "default": PAGE}
    return {
        "summary": "List jobs, the newest first",
        "operationId": "list_jobs",
        "parameters": [
            parameter("status", "`active` and `over` are all that are so", schema=statuses),
            parameter("adapter", "how they came, http"),
            parameter("limit", "the most on this page", schema=limit),
            parameter("after", "`next` of the page before"),
        ],
        "responses": {
            "200": answer("A page.", "JobsAnswer"),
            "400": answer("A parameter is none of these.", "ErrorAnswer"),
            "503": answer(_STATE, "ErrorAnswer"),
        },
    }


def _job() -> dict[str, Any]:
    return {
        "summary": "Tell how a job is",
        "operationId": "get_job",
        "parameters": [id_parameter()],
        "responses": {"200": answer("How it is.", "JobRecord"), **_refusals()},
    }


def _events() -> dict[str, Any]:
    schema = {"schema": {"type": "string"}}
    number = {"type": "integer", "minimum": 0}
    return {
        "summary": "Follow a job (server-sent events)",
        "description": (
            "`phase`, `download`, `progress` (`overall_pct` never falls), `output`, `upload`, "
            "`preview`, and the end: `succeeded`, `failed` or `cancelled`. `Last-Event-ID` "
            "resumes, also after a restart and at another worker with the same STATE_URL; there "
            "the steps of progress are left out."
        ),
        "operationId": "job_events",
        "parameters": [
            id_parameter(),
            parameter("Last-Event-ID", "the id of the last event that was seen", "header"),
            parameter("after", "the same, for who cannot send headers", schema=number),
            parameter("previews", "pictures of the work so far", schema={"type": "boolean"}),
        ],
        "responses": {
            "200": {"description": "The events.", "content": {"text/event-stream": schema}},
            "204": {"description": "The job is over, and its last event was seen."},
            **_refusals(),
        },
    }


def _result() -> dict[str, Any]:
    content = {
        **json_content("ResultAnswer"),
        **dict.fromkeys(("image/*", "video/*", "multipart/mixed"), BINARY),
    }
    told = {status: answer(about, "ErrorAnswer") for status, about in ERRORS.items()}
    for status in ("413", "415", "429"):
        del told[status]
    retry = {"Retry-After": "Seconds; a webhook or the events need no asking."}
    return {
        "summary": "Give a job's result",
        "description": (
            "As `POST /prompt` would have answered, raw forms and errors included. Outputs of a "
            "request that was answered on its connection are not kept: 410."
        ),
        "operationId": "job_result",
        "parameters": [id_parameter()],
        "responses": {
            "200": {"description": "What the run produced.", "content": content},
            "202": answer("It is not over.", "JobUnfinished", retry),
            **told,
            "404": answer(_UNKNOWN, "ErrorAnswer"),
        },
    }


def _output() -> dict[str, Any]:
    headers = {
        "ETag": "The SHA-256 of the bytes, in quotes.",
        "Content-Disposition": "`inline` for pictures, videos, sounds and texts.",
        "Accept-Ranges": "`bytes`",
    }
    part = {**headers, "Content-Range": "Which bytes, and how many there are."}
    content = {"*/*": BINARY}
    conditions = {
        "Range": "one part: `bytes=0-499`, `bytes=500-` or `bytes=-500`; for several all is sent",
        "If-Range": "an ETag: the part counts only if the output is still that one",
        "If-None-Match": "an ETag: nothing is sent if the output is still that one",
    }
    return {
        "summary": "Fetch a kept output",
        "description": (
            "Outputs are kept for OUTPUT_RETENTION_S when nobody waited for them on a connection, "
            "or they could not be uploaded; `outputs` of the job has their names."
        ),
        "operationId": "job_output",
        "parameters": [
            id_parameter(),
            id_parameter("name"),
            *(parameter(name, about, "header") for name, about in conditions.items()),
        ],
        "responses": {
            "200": {"description": "All.", "content": content, "headers": header_table(headers)},
            "206": {"description": "A part.", "content": content, "headers": header_table(part)},
            "304": {"description": "The client has it."},
            "404": answer("No such job, or it has no such output.", "ErrorAnswer"),
            "416": answer(
                "The output is shorter.", "ErrorAnswer", {"Content-Range": "`bytes */<size>`"}
            ),
            "503": answer(_STATE, "ErrorAnswer"),
        },
    }


def _archive() -> dict[str, Any]:
    return {
        "summary": "Fetch all kept outputs as one ZIP file",
        "operationId": "job_archive",
        "parameters": [id_parameter()],
        "responses": {
            "200": {"description": "The file.", "content": {"application/zip": BINARY}},
            "404": answer("No such job, or it has no kept outputs.", "ErrorAnswer"),
            "503": answer(_STATE, "ErrorAnswer"),
        },
    }


def _cancel() -> dict[str, Any]:
    return {
        "summary": "Stop a job, wherever it is",
        "operationId": "cancel_job",
        "parameters": [id_parameter()],
        "responses": {"200": answer("It stops, or was over.", "CancelAnswer"), **_refusals()},
    }
