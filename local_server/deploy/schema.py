"""What a deploy.yaml may say, and its defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    model_validator,
)

DNS_NAME = r"^[a-z][a-z0-9-]{0,61}[a-z0-9]$"
ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
REFERENCE = r"^[A-Za-z_][A-Za-z0-9_.-]*$"
CUDA = r"^\d+\.\d+$"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SecretRef(_Part):
    """A secret by its name: the platform's own, or a variable of this machine (Salad)."""

    secret: Annotated[str, Field(pattern=REFERENCE)]


def _value(given: Any) -> str | SecretRef:
    if isinstance(given, str):
        return given
    if isinstance(given, dict) and list(given) == ["secret"] and isinstance(given["secret"], str):
        return SecretRef(secret=given["secret"])
    raise ValueError("must be a text, or {secret: NAME}")


def _off(given: Any) -> Any:
    return "off" if given is False else given  # to YAML a plain `off` is no text


def _meant(given: Any) -> Any:
    if given is None:  # `queue:` with nothing behind it is no queue to YAML
        raise ValueError("is empty: write `{}` for its defaults, or leave it out")
    return given


def _listed(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


Value = Annotated[str | SecretRef, PlainValidator(_value)]
Env = dict[Annotated[str, Field(pattern=ENV_NAME)], Value]
Names = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed)]
Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Registry(_Part):
    """Login to the registry of a private image.

    Attributes:
        name: of the credential that RunPod or Modal keeps.
        server: tells Docker Hub from others: Salad logs in to them by different means.
    """

    name: str | None = None
    server: str | None = None
    username: str | None = None
    password: SecretRef | None = None


class Workers(_Part):
    """How many workers RunPod runs, and how long an idle one stays."""

    min: Whole = 0
    max: Count = 3
    idle_s: Annotated[int, Field(ge=1, le=3600)] = 10

    @model_validator(mode="after")
    def _ordered(self) -> Workers:
        if self.min > self.max:
            raise ValueError("`min` is above `max`")
        return self


class Scaling(_Part):
    """When RunPod starts another worker: exactly one of both."""

    queue_delay_s: Annotated[float, Field(ge=0.5)] | None = None
    requests: Count | None = None

    @model_validator(mode="after")
    def _one(self) -> Scaling:
        if (self.queue_delay_s is None) == (self.requests is None):
            raise ValueError("must have either `queue_delay_s` or `requests`")
        return self


class RunPod(_Part):
    """An endpoint of RunPod, and the template of the same name.

    Attributes:
        timeout_s: a job's execution time.
        min_cuda, cuda: the lowest CUDA version of a machine's driver, or the only ones.
        disk_gb: default: 20, and what the manifest's models need.
        command: arguments of the image's entry point.
    """

    type: Literal["queue", "load_balancer"] = "queue"
    gpu: Names | None = None
    gpu_count: Count = 1
    min_cuda: Annotated[str, Field(pattern=CUDA)] | None = None
    cuda: list[Annotated[str, Field(pattern=CUDA)]] = []
    workers: Workers = Workers()
    scaling: Scaling | None = None
    timeout_s: Annotated[int, Field(ge=5, le=604800)] = 600
    flashboot: bool | Literal["priority"] = True
    disk_gb: Count | None = None
    volumes: Names = []
    data_centers: Names = []
    command: str | None = None
    env: Env = {}

    @model_validator(mode="after")
    def _fits(self) -> RunPod:
        if self.min_cuda and self.cuda:
            raise ValueError("`min_cuda` and `cuda` exclude each other")
        if self.type == "load_balancer" and self.scaling and self.scaling.requests is None:
            raise ValueError("a load balancer scales by `scaling: {requests: N}`")
        return self


class Modal(_Part):
    """An app of Modal. What is left out keeps the default of adapters/modal_knobs.py.

    Attributes:
        environment: Modal's own, as `main`; default: the profile's.
        memory_gb: default: what the manifest requires.
        secrets: Modal Secrets, beside those that `env` refers to.
        knobs: any further one by its variable, `COMFYFN_MAX_INPUTS: 4`.
    """

    environment: str | None = None
    gpu: Names | None = None
    memory_gb: Annotated[float, Field(ge=0.5)] | None = None
    min_containers: Whole | None = None
    max_containers: Count | None = None
    buffer_containers: Whole | None = None
    scaledown_s: Annotated[int, Field(ge=2, le=1200)] | None = None
    job_timeout_s: Count | None = None
    startup_timeout_s: Count | None = None
    region: Names | None = None
    snapshot: Annotated[Literal["off", "cpu", "gpu"] | None, BeforeValidator(_off)] = None
    proxy_auth: bool | None = None
    volume: str | None = None
    secrets: Names = []
    knobs: dict[Annotated[str, Field(pattern=r"^COMFYFN_[A-Z_]+$")], str] = {}
    env: Env = {}


class Gateway(_Part):
    """Salad's gateway: synchronous, a request has 100 s at most."""

    port: Annotated[int, Field(ge=1, le=65535)] = 3000
    auth: bool = True
    load_balancer: Literal["least_number_of_connections", "round_robin"] = (
        "least_number_of_connections"
    )
    single_connection: bool = False
    timeout_s: Annotated[int, Field(ge=1, le=100)] = 100


class Autoscale(_Part):
    """Replicas by the length of Salad's queue."""

    min: Annotated[int, Field(ge=0, le=100)] = 0
    max: Annotated[int, Field(ge=1, le=500)] = 3
    desired_queue_length: Annotated[int, Field(ge=1, le=100)] = 1
    polling_s: Annotated[int, Field(ge=15, le=1800)] = 15
    max_up_per_minute: Annotated[int, Field(ge=1, le=100)] | None = None
    max_down_per_minute: Annotated[int, Field(ge=1, le=100)] | None = None


class Queue(_Part):
    """Salad's job queue: asynchronous, up to 3 retries, no gateway."""

    name: Annotated[str, Field(pattern=DNS_NAME)] | None = None
    path: Annotated[str, Field(pattern=r"^/")] = "/queue"
    port: Annotated[int, Field(ge=1, le=65535)] = 3000
    autoscale: Autoscale | None = None


class Probes(_Part):
    """Where Salad asks, and how long the start may take.

    Attributes:
        startup_s: limit of the start; default: estimated from the manifest's sizes.
        download_mbps: MBit/s that the estimate assumes; default: MIN_DOWNLOAD_MBPS of `env`, or 50.
    """

    startup: Annotated[str, Field(pattern=r"^/")] = "/health/startup"
    readiness: Annotated[str, Field(pattern=r"^/")] = "/ready"
    liveness: Annotated[str, Field(pattern=r"^/")] = "/health/live"
    startup_s: Annotated[int, Field(ge=20, le=3600)] | None = None
    download_mbps: Annotated[float, Field(gt=0)] | None = None


class Salad(_Part):
    """A container group of Salad, behind a gateway or at a queue."""

    organization: Annotated[str, Field(pattern=DNS_NAME)] | None = None
    project: Annotated[str, Field(pattern=DNS_NAME)] | None = None
    gpu: Names | None = None
    cpu: Annotated[int, Field(ge=1, le=1024)] = 4
    memory_gb: Annotated[float, Field(ge=1)] | None = None
    storage_gb: Annotated[int, Field(ge=1)] | None = None
    shm_mb: Annotated[int, Field(ge=64)] | None = None
    replicas: Annotated[int, Field(ge=0, le=500)] = 3
    priority: Literal["high", "medium", "low", "batch"] | None = None
    countries: list[Annotated[str, Field(pattern=r"^[a-z]{2}$")]] = []
    gateway: Annotated[Gateway | None, BeforeValidator(_meant)] = None
    queue: Annotated[Queue | None, BeforeValidator(_meant)] = None
    probes: Probes = Probes()
    autostart: bool = True
    env: Env = {}

    @model_validator(mode="after")
    def _one_way_in(self) -> Salad:
        if self.gateway is not None and self.queue is not None:
            raise ValueError("has `gateway` and `queue`: a group at a queue has no gateway")
        return self


class Deploy(_Part):
    """All of it; `gpu` and `env` hold for every platform that does not say otherwise.

    Attributes:
        image: of RunPod and Salad; Modal builds its own.
        manifest: path of the manifest, from the file's folder: its `requires` is checked, and
            RunPod's and Salad's workers are given it as MANIFEST_JSON.
        manifest_baked: the image has it: it is only checked.
    """

    name: Annotated[str, Field(pattern=DNS_NAME)]
    image: Annotated[str, Field(pattern=r"^\S+$")] | None = None
    manifest: str | None = None
    manifest_baked: bool = False
    gpu: Names = []
    env: Env = {}
    registry: Registry | None = None
    runpod: RunPod = RunPod()
    modal: Modal = Modal()
    salad: Salad = Salad()
