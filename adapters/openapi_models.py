"""What the routes answer, as schemas; the handler's own dictionaries are held against them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class OutputEntry(BaseModel):
    """One thing that the run produced."""

    node_id: str
    title: str
    kind: str = Field(description="image, video, audio, model3d, text or file")
    mime: str
    filename: str
    bytes: int
    sha256: str
    width: int | None
    height: int | None
    duration_s: float | None
    text: str | None


class NodeTime(BaseModel):
    """When a node began; Unix time in milliseconds."""

    start: int


class RunTime(BaseModel):
    """When the run began and ended; Unix time in milliseconds."""

    start: int | None
    end: int | None
    duration: int | None = Field(description="milliseconds")


class ExecutionTime(RunTime):
    """The run's times by node; cached nodes do not appear."""

    total: RunTime = Field(description="the same once more, as older documentation has it")
    nodes: dict[str, NodeTime]


class Stats(BaseModel):
    """Where the time went, in milliseconds."""

    comfy_execution: ExecutionTime
    preprocess_time: float = Field(description="checking the graph and fetching its inputs")
    comfy_round_trip_time: float = Field(description="waiting for the engine and its run")
    postprocess_time: float = Field(description="reading and converting the outputs")
    upload_time: float
    total_time: float
    queue_time: float = Field(description="waiting for the engine, a part of the round trip")
    cached_nodes: list[str] = Field(description="nodes that did not run again")


class EngineEntry(BaseModel):
    """Which engine ran the graph."""

    kind: str
    version: str | None


class PromptAnswer(BaseModel):
    """A job's result; `images[i]` is the base64 of `filenames[i]`, whatever its kind."""

    id: str
    prompt: dict[str, Any] = Field(description="the graph as it ran")
    convert_output: dict[str, Any] | None = Field(
        None, description="as asked, defaults filled in; only where it was asked for"
    )
    images: list[str]
    filenames: list[str]
    outputs: list[OutputEntry]
    stats: Stats
    engine: EngineEntry


class ErrorAnswer(BaseModel):
    """Every error, of every route."""

    error: str
    location: str | None = Field(description="dotted path into the request")
    code: str
    blame: str = Field(description="caller, image or platform")
    retryable: bool
    node_id: str | None
    node_title: str | None
    class_type: str | None
    hint: str | None
    details: Any
    log_tail: list[str] | None
    message: str
    statusCode: int  # noqa: N815


class InterruptRequest(BaseModel):
    """Which job to stop."""

    id: str


class InterruptAnswer(BaseModel):
    """Whether there was one."""

    id: str
    interrupted: str = Field(description="success or failed")
    error: str | None = Field(None, description="why it failed")


class JobAnswer(BaseModel):
    """How a job is."""

    id: str
    status: str
    created_at: float
    finished_at: float | None
    progress: dict[str, Any] | None
    outputs: list[OutputEntry]
    error: ErrorAnswer | None
    stage_s: dict[str, float]
    position: int | None = Field(description="jobs before this one; 0 is with the engine")


class DownloadStarted(BaseModel):
    """A download that goes on in the background; `GET /downloads/{id}` tells how it is."""

    id: str
    url: str = Field(description="as it was sent, without what may be secret")
    model_type: str
    filename: str = Field(description="as far as it is known before the source has answered")
    status: Literal["started"]


class DownloadCompleted(BaseModel):
    """A file that is in its folder."""

    id: str
    url: str = Field(description="as it was sent, without what may be secret")
    model_type: str
    filename: str
    status: Literal["completed"]
    size: int = Field(description="bytes")
    duration: float = Field(description="seconds")


class DownloadRecord(BaseModel):
    """How a download is."""

    id: str
    url: str = Field(description="without user, password and values of its query")
    model_type: str
    filename: str
    status: Literal["started", "completed", "failed"]
    done: int = Field(description="bytes that are here")
    total: int | None = Field(description="bytes of the file, once the source told")
    bytes_per_s: int
    size: int | None = Field(description="bytes, once it is completed")
    duration: float | None = Field(description="seconds, once it is completed")
    error: ErrorAnswer | None = Field(description="code `cancelled` where somebody asked for it")


class DownloadsAnswer(BaseModel):
    """The downloads that are known, newest first."""

    downloads: list[DownloadRecord]


class ProbeAnswer(BaseModel):
    """A probe's answer."""

    version: str
    status: str
    phase: str
    reason: str | None


class HealthAnswer(ProbeAnswer):
    """The worker's state with its engine, jobs and boot report."""

    engine: dict[str, Any]
    jobs: dict[str, int]
    boot: dict[str, Any]


ANSWERS = (
    PromptAnswer,
    ErrorAnswer,
    InterruptRequest,
    InterruptAnswer,
    JobAnswer,
    DownloadStarted,
    DownloadCompleted,
    DownloadRecord,
    DownloadsAnswer,
    ProbeAnswer,
    HealthAnswer,
)
