"""What the routes answer, as schemas; the handler's own dictionaries are held against them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class UploadEntry(BaseModel):
    """One output at one target."""

    target: str = Field(description="the key of the request: s3, http_upload and so on")
    url: str
    location: str = Field(description="where it is, with nothing that lets anybody in")
    expires_at: int | None = Field(
        None, description="of a link that anybody can fetch: it is good until then, in Unix seconds"
    )
    bytes: int
    seconds: float
    etag: str | None
    started_ms: int = Field(description="Unix time in milliseconds")
    ended_ms: int = Field(description="Unix time in milliseconds")


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
    url: str | None = Field(None, description="where it was uploaded, at the first target")
    uploads: list[UploadEntry] = Field([], description="where it was uploaded, target by target")


class JobOutput(OutputEntry):
    """An output in the record of its job; long texts are cut."""

    name: str | None = Field(None, description="it is kept under this name; unique in the job")
    href: str | None = Field(None, description="where a kept output is fetched")


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


class GpuEntry(BaseModel):
    """The device that the engine named first."""

    name: str
    vram_total: int | None = Field(description="bytes")


class EngineEntry(BaseModel):
    """Which engine ran the graph."""

    kind: str
    version: str | None


class Stats(BaseModel):
    """Where the time went, in milliseconds, and on what machine."""

    comfy_execution: ExecutionTime
    preprocess_time: float = Field(description="checking the graph and fetching its inputs")
    comfy_round_trip_time: float = Field(description="waiting for the engine and its run")
    postprocess_time: float = Field(description="reading and converting the outputs")
    upload_time: float
    total_time: float
    queue_time: float = Field(description="waiting for the engine, a part of the round trip")
    fetch_time: float = Field(description="fetching inputs and models")
    gpu_time: int | None = Field(description="from the run's begin to its end")
    cached_nodes: list[str] = Field(description="nodes that did not run again")
    instance: str = Field(description="the worker")
    adapter: str = Field(description="how the request came, http")
    engine: EngineEntry
    gpu: GpuEntry | None
    cold: bool = Field(description="the first run since the engine's start")
    boot: dict[str, Any] = Field({}, description="of a cold run: the boot's phases, in seconds")
    spilled: bool = Field(
        False, description="the answer was over its limit: outputs went to OUTPUT_STORAGE"
    )


class Echo(BaseModel):
    """What an answer repeats of its request: never a secret."""

    id: str
    convert_output: dict[str, Any] | None = Field(
        None, description="as asked, defaults filled in; only where it was asked for"
    )
    webhook: str | None = Field(None, description="without what may be secret")
    webhook_v2: str | None = Field(None, description="without what may be secret")
    archive: Literal["zip"] | None = None
    s3: dict[str, Any] | None = None
    hf_upload: dict[str, Any] | None = None
    azure_blob_upload: dict[str, Any] | None = None
    http_upload: dict[str, Any] | None = None
    gcs_upload: dict[str, Any] | None = None
    presigned: dict[str, Any] | None = None
    volume: dict[str, Any] | None = None


class PromptAnswer(Echo):
    """A job's result; `images[i]` is the base64 of `filenames[i]`, or its URL if uploaded."""

    prompt: dict[str, Any] = Field(description="the graph as it ran; media in it are left out")
    images: list[str]
    filenames: list[str]
    outputs: list[OutputEntry]
    stats: Stats
    engine: EngineEntry | None = Field(None, description="as in `stats`")
    replayed: bool = Field(False, description="of a run that was there before this request")


class PromptAccepted(Echo):
    """The job goes on; `Location` and webhooks tell how."""

    prompt: dict[str, Any] = Field(description="the graph as it came; media in it are left out")
    status: Literal["ok"]


class ResultAnswer(BaseModel):
    """A job's result, as `POST /prompt` gives it, without the request."""

    id: str
    images: list[str]
    filenames: list[str]
    outputs: list[OutputEntry]
    stats: Stats
    engine: EngineEntry | None = Field(None, description="as in `stats`")
    replayed: bool = False


class JobUnfinished(BaseModel):
    """There is no result yet."""

    id: str
    status: str


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
    stats: dict[str, Any] | None = Field(
        None, description="of a job that ended by it: where the time went, as far as it got"
    )


class InterruptRequest(BaseModel):
    """Which job to stop."""

    id: str


class InterruptAnswer(BaseModel):
    """Whether there was one."""

    id: str
    interrupted: str = Field(description="success or failed")
    error: str | None = Field(None, description="why it failed")


class RedeliveryEntry(BaseModel):
    """How kept outputs were brought to a storage after their job."""

    targets: list[str] = Field(description="keys of the request")
    status: Literal["succeeded", "failed"]
    images: list[str] = Field([], description="URLs")
    error: ErrorAnswer | None = None
    at: float = Field(description="Unix seconds")


class WebhookEntry(BaseModel):
    """What came of the posts of one webhook."""

    status: str = Field(
        description="pending, delivered, nothing to tell; given up, or lost before it was posted: "
        "then with a colon and why"
    )
    tries: int = Field(description="of the newest post")
    posts: int | None = Field(None, description="of webhook: how many there are")
    delivered: list[int] | None = Field(None, description="of webhook: the numbers of those posts")
    given_up: list[int] | None = Field(None, description="of webhook: the numbers of those posts")


class JobRecord(BaseModel):
    """How a job is."""

    id: str
    status: str = Field(
        description="received, fetching, queued, running, collecting, converting, delivering; at "
        "the end succeeded, failed or cancelled"
    )
    created_at: float = Field(description="Unix seconds")
    finished_at: float | None
    progress: dict[str, Any] | None
    outputs: list[JobOutput]
    stats: dict[str, Any] | None = Field(
        description="as in the answer; of a job that failed, those that there are by then"
    )
    error: ErrorAnswer | None
    redelivery: RedeliveryEntry | None = Field(description="how the newest one ended")
    webhooks: dict[str, WebhookEntry] | None = Field(description="by key of the request")
    stage_s: dict[str, float] = Field(description="seconds by status, in the worker that ran it")
    adapter: str = Field(description="how it came, http")
    instance: str = Field(description="the worker that has or had it")
    position: int | None = Field(description="jobs before this one; 0 is with the engine")


class JobsAnswer(BaseModel):
    """A page of jobs, the newest first."""

    jobs: list[JobRecord]
    next: str | None = Field(description="`after` of the next page; null on the last one")


class CancelAnswer(BaseModel):
    """What became of a wish to cancel."""

    id: str
    status: str
    cancelled: bool = Field(description="false where the job was over before")


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
    PromptAccepted,
    ResultAnswer,
    JobUnfinished,
    ErrorAnswer,
    InterruptRequest,
    InterruptAnswer,
    JobRecord,
    JobsAnswer,
    CancelAnswer,
    DownloadStarted,
    DownloadCompleted,
    DownloadRecord,
    DownloadsAnswer,
    ProbeAnswer,
    HealthAnswer,
)
