"""Everything an operator can set, read from the environment once. Nothing else reads it.

Each field of `Settings` names its variable, its default and what it means: the table of
docs/settings.md is generated from here. All faults are told at once.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

Environment = Mapping[str, str]
# A name or a glob, or an IPv6 address in brackets, with a port or not; and origins.
_HOST_ENTRY = re.compile(
    r"(https?://)?(\[[\da-f:.]+\]|[\w.*?\-\[\]!]+)(:\d{1,5})?/?", re.IGNORECASE
)
COMFY_EVENTS = (
    *("status", "progress", "progress_state", "executing", "execution_start", "execution_cached"),
    *("executed", "execution_success", "execution_interrupted", "execution_error"),
)
STORAGE_EVENTS = ("file_downloaded", "file_uploaded", "file_deleted")
SYSTEM_EVENTS = COMFY_EVENTS + STORAGE_EVENTS

_META = "SYSTEM_META_"
_SALAD = (
    *("SALAD_ORGANIZATION_NAME", "SALAD_ORGANIZATION_ID", "SALAD_PROJECT_NAME"),
    *("SALAD_PROJECT_ID", "SALAD_CONTAINER_GROUP_NAME", "SALAD_CONTAINER_GROUP_ID"),
    *("SALAD_INSTANCE_ID", "SALAD_MACHINE_ID"),
)
# Two of its letters make a byte, whatever is between them.
_BASE64 = re.compile(r"[A-Za-z0-9+/_-][^A-Za-z0-9+/_-]*[A-Za-z0-9+/_-]")


class SettingsError(ValueError):
    """The environment holds values that cannot be used; the text lists every one."""


def _flag(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True}
    words |= {"false": False, "0": False, "no": False, "off": False, "": False}
    try:
        return words[text.strip().lower()]
    except KeyError:
        raise ValueError("is neither true nor false") from None


def _number(low: float, high: float = float("inf")) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("is no number") from None
        if not low <= value <= high:
            raise ValueError(f"is not between {low:g} and {high:g}")
        return value

    return parse


def _whole(low: int, high: int = 2**31) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError("is no whole number") from None
        if not low <= value <= high:
            raise ValueError(f"is not between {low} and {high}")
        return value

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.strip().lower() in words:
            return text.strip().lower()
        raise ValueError(f"is none of {', '.join(words)}")

    return parse


def _path(text: str) -> Path | None:
    return Path(text).expanduser().absolute() if text else None


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(Path(one).expanduser().absolute() for one in text.split(":") if one.strip())


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"cannot be split into words: {error}") from None


def _text(text: str) -> str:
    return text


def _route(text: str) -> str:
    if not re.fullmatch(r"(/[\w.~-]+)+", text, re.ASCII):
        raise ValueError("is no path of a route, as /queue")
    return text


def _proxy(text: str) -> str:
    return text.rpartition("@")[2]  # without a password, as it is only told


def _split_url(text: str) -> SplitResult:
    """Split an http(s) URL.

    Raises:
        ValueError: it is none, or its host or port cannot be.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is no URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError("is no http:// or https:// URL")
    if any(mark.isspace() or not mark.isprintable() for mark in text):
        raise ValueError("is no URL: there is a space in it")
    return parts


def _url(text: str) -> str:
    _split_url(text)
    return text


def _origins(text: str) -> str:
    for entry in filter(None, map(str.strip, text.split(","))):
        parts = _split_url(entry)
        rest = (parts.path.rstrip("/"), parts.query, parts.fragment)
        if any(rest) or "@" in parts.netloc or "*" in parts.netloc:
            raise ValueError(f"is no list of origins (https://host or https://host:port): {entry}")
    return text


def _hosts(text: str) -> str:
    for entry in filter(None, map(str.strip, text.split(","))):
        if not (_HOST_ENTRY.fullmatch(entry) or _is_network(entry)):
            known = "host globs, addresses and CIDR ranges, each with a :port or not"
            raise ValueError(f"is no list of {known}: {entry}")
    return text


def _state_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme == "s3" and parts.netloc and not parts.query:
        return text
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return text
    if "://" in text:
        raise ValueError("is neither a folder, file:///folder nor s3://bucket/prefix")
    return text


def _is_network(entry: str) -> bool:
    if entry.startswith("[") or entry.count(":") == 1:
        entry = re.sub(r":\d{1,5}$", "", entry)
    try:
        ipaddress.ip_network(re.sub(r"[\[\]]", "", entry), strict=False)
    except ValueError:
        return False
    return True


def _events(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, map(str.strip, text.split(","))))
    if names == ("all",):
        return SYSTEM_EVENTS
    unknown = [name for name in names if name not in SYSTEM_EVENTS]
    if unknown or not names:
        raise ValueError(f"is neither `all` nor a list of {', '.join(SYSTEM_EVENTS)}")
    return names


def _metadata(environ: Environment) -> tuple[tuple[str, str], ...]:
    """Gather what is sent with events: the operator's own, and where on Salad this is."""
    own = {k.removeprefix(_META): v for k, v in environ.items() if k.startswith(_META)}
    salad = {name.lower(): environ[name] for name in _SALAD if environ.get(name)}
    return tuple({**salad, **own}.items())


def _env(name: str, default: Any, parse: Callable[[str], Any], about: str) -> Any:
    return field(default=default, metadata={"env": name, "parse": parse, "about": about})


def _secret(name: str, about: str) -> Any:
    """Make a field that no text made of the settings shows."""
    return field(default="", repr=False, metadata={"env": name, "parse": _text, "about": about})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the operator set. Times are in seconds, sizes as their names say."""

    host: str = _env("HOST", "127.0.0.1", _text, "address the server listens on")
    port: int = _env("PORT", 3000, _whole(0, 65535), "port the server listens on")
    health_port: int | None = _env(
        "PORT_HEALTH",
        None,
        _whole(1, 65535),
        "a second port it listens on, which RunPod's load balancers ask for `/ping`",
    )
    allow_origins: str = _env(
        "ALLOW_ORIGINS",
        "",
        _text,
        "hosts whose web pages may call, and names a server on loopback may have; `*`: all",
    )
    log_level: str = _env(
        "LOG_LEVEL",
        "info",
        _one_of("trace", "debug", "info", "warn", "warning", "error", "fatal"),
        "least severe log lines shown",
    )
    log_format: str = _env(
        "LOG_FORMAT",
        "auto",
        _one_of("auto", "text", "json"),
        "how log lines are written; `auto`: as text on a terminal, else as JSON",
    )
    otel_endpoint: str = _env(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        _text,
        "collector that a span of every job is sent to, by OTLP over HTTP: `http://host:4318`; "
        "other OTEL_* variables hold as well",
    )
    otel_traces_endpoint: str = _env(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "",
        _text,
        "the same as a whole URL, `http://host:4318/v1/traces`; it wins",
    )
    max_body_mb: int = _env(
        "MAX_BODY_SIZE_MB", 100, _whole(1, 1 << 20), "largest request body in MiB; over it: 413"
    )

    # Of `comfyfn start`.
    adapter: str = _env(
        "ADAPTER",
        "auto",
        _one_of("auto", "http", "runpod", "salad", "modal"),
        "what `comfyfn start` runs; `auto`: what the platform's own variables tell, else `http`",
    )

    engine: str = _env(
        "ENGINE",
        "auto",
        _one_of("auto", "comfyui", "embedded"),
        "which engine runs graphs; `auto`: ComfyUI when found, else the embedded one",
    )
    comfy_home: Path | None = _env("COMFY_HOME", None, _path, "folder of ComfyUI, with its main.py")
    comfy_python: Path | None = _env(
        "COMFY_PYTHON", None, _path, "ComfyUI's interpreter; default: its .venv or venv, else ours"
    )
    comfy_command: tuple[str, ...] = _env(
        "CMD", (), _words, "any other command that starts ComfyUI, quoted as in a shell"
    )
    comfy_args: tuple[str, ...] = _env(
        "COMFY_ARGS", (), _words, "more arguments for ComfyUI; they win over ours"
    )
    comfy_url: str = _env(
        "COMFY_URL",
        "",
        _url,
        "a ComfyUI that already runs: nothing is started, files are uploaded",
    )
    comfy_port: int = _env(
        "COMFYUI_PORT_HOST", 8188, _whole(1, 65535), "loopback port the engine is started on"
    )
    allow_cpu: bool = _env("ALLOW_CPU", False, _flag, "start ComfyUI even without a usable GPU")
    ui: bool = _env(
        "COMFYFN_UI", False, _flag, "for designing: previews on, and ComfyUI's own page announced"
    )
    input_dir: Path | None = _env("INPUT_DIR", None, _path, "the engine's input folder")
    output_dir: Path | None = _env("OUTPUT_DIR", None, _path, "the engine's output folder")
    model_dir: Path | None = _env("MODEL_DIR", None, _path, "the engine's models folder")
    model_roots: tuple[Path, ...] = _env(
        "MODEL_ROOTS",
        (),
        _paths,
        "more folders with models, separated by `:`; /runpod-volume and /workspace are looked at",
    )
    cache_dir: Path | None = _env(
        "CACHE_DIR",
        None,
        _path,
        "where models fetched by URL are kept; one of comfyui-api goes on",
    )
    cache_gb: float = _env(
        "LRU_CACHE_SIZE_GB", 0.0, _number(0), "budget of that folder in GiB; 0: no limit"
    )
    allow_paths: tuple[Path, ...] = _env(
        "ALLOW_PATHS", (), _paths, "folders whose files callers may name by path, separated by `:`"
    )
    read_ahead: bool = _env(
        "READ_AHEAD", True, _flag, "read the warmup's models into memory while the engine boots"
    )
    work_dir: Path | None = _env(
        "WORK_DIR", None, _path, "scratch for large bodies and conversions; default: a temp folder"
    )
    engine_prefetch: int = _env(
        "ENGINE_PREFETCH", 2, _whole(1, 64), "prompts handed to the engine at once; it runs one"
    )
    restart_budget: int = _env(
        "ENGINE_RESTARTS",
        5,
        _whole(0),
        "engine restarts in a row without a finished run, then unhealthy",
    )
    always_restart: bool = _env(
        "ALWAYS_RESTART_COMFYUI", False, _flag, "never give up restarting the engine"
    )

    manifest: Path | None = _env(
        "MANIFEST", None, _path, "what is installed and fetched at the start (.yaml, .yml, .json)"
    )
    manifest_locked: bool = _env(
        "MANIFEST_LOCKED",
        False,
        _flag,
        "carry it out exactly as the lock beside it has it, or fail",
    )
    manifest_local_git: bool = _env(
        "MANIFEST_LOCAL_GIT", False, _flag, "let a manifest name git repositories of this machine"
    )
    manifest_json: str = _env("MANIFEST_JSON", "", _text, "the same, as JSON text; it wins")

    workflow_dir: Path | None = _env(
        "WORKFLOW_DIR", None, _path, "folder of graphs that are called by their names"
    )
    warmup_file: Path | None = _env("WARMUP_PROMPT_FILE", None, _path, "graph run once after boot")
    warmup_url: str = _env("WARMUP_PROMPT_URL", "", _text, "the same, fetched by URL")
    warmup_json: str = _env("WARMUP_PROMPT_JSON", "", _text, "the same, as JSON text")
    warmup_failure: str = _env(
        "WARMUP_FAILURE",
        "fail",
        _one_of("fail", "continue"),
        "what a warmup that fails means: `fail` the boot, or `continue` without",
    )

    max_queue_depth: int = _env(
        "MAX_QUEUE_DEPTH", 1000, _whole(0), "jobs that may wait; over it: 429; 0: no limit"
    )
    boot_timeout_s: float = _env(
        "BOOT_TIMEOUT_S", 600.0, _number(1), "from the engine's start to its first answer"
    )
    startup_check_interval_s: float | None = _env(
        "STARTUP_CHECK_INTERVAL_S", None, _number(0.001), "with the next one: BOOT_TIMEOUT_S"
    )
    startup_check_tries: int | None = _env(
        "STARTUP_CHECK_MAX_TRIES", None, _whole(1), "interval times tries is the boot's limit"
    )
    queue_timeout_s: float = _env(
        "QUEUE_TIMEOUT_S", 0.0, _number(0), "longest wait for the engine; 0: no limit"
    )
    no_progress_timeout_s: float = _env(
        "NO_PROGRESS_TIMEOUT_S", 600.0, _number(0), "longest silence of a run; 0: no limit"
    )
    job_timeout_s: float = _env(
        "JOB_TIMEOUT_S", 0.0, _number(0), "a job's total time, fetching included; 0: no limit"
    )
    cancel_grace_s: float = _env(
        "CANCEL_GRACE_S", 60.0, _number(0), "a cancelled run that does not end is killed after this"
    )
    drain_timeout_s: float = _env(
        "DRAIN_TIMEOUT_S", 30.0, _number(0), "how long SIGTERM waits for jobs in hand"
    )
    job_retention_s: float = _env(
        "JOB_RETENTION_S", 3600.0, _number(0), "how long the record of a finished job is kept"
    )

    state_dir: Path | None = _env(
        "STATE_DIR",
        None,
        _path,
        "what must outlive the process; workers may share it; default: ~/.local/state/comfyfn",
    )
    state_url: str = _env(
        "STATE_URL",
        "",
        _state_url,
        "where all workers keep records and outputs: a folder, or `s3://bucket/prefix`; "
        "default: STATE_DIR",
    )
    instance_id: str = _env(
        "INSTANCE_ID", "", _text, "this worker's name in records and answers; default: by the host"
    )
    output_retention_s: float = _env(
        "OUTPUT_RETENTION_S",
        3600.0,
        _number(0),
        "how long outputs are kept after the job to be fetched again; 0: not at all",
    )
    output_max_mb: int = _env(
        "OUTPUT_MAX_MB", 10_240, _whole(0), "MiB of kept outputs; then the oldest go; 0: no limit"
    )
    webhook_secret: str = _secret(
        "WEBHOOK_SECRET", "signs webhooks, base64 with `whsec_` before it or not; unset: unsigned"
    )
    prompt_webhook_retries: int | None = _env(
        "PROMPT_WEBHOOK_RETRIES",
        None,
        _whole(0),
        "tries of a webhook after the first one; default: as many as its age allows",
    )
    webhook_timeout_s: float = _env(
        "WEBHOOK_TIMEOUT_S", 20.0, _number(0.1), "longest wait for a webhook's receiver, a try"
    )
    webhook_max_age_s: float = _env(
        "WEBHOOK_MAX_AGE_S", 86400.0, _number(0), "a webhook not delivered by then is given up"
    )
    outbox_max: int = _env(
        "OUTBOX_MAX", 10_000, _whole(1), "webhooks kept, pending and given up; then the oldest go"
    )
    outbox_max_mb: int = _env("OUTBOX_MAX_MB", 1024, _whole(1), "the same in MiB of their bodies")

    system_webhook_url: str = field(
        default="",
        repr=False,  # receivers' URLs may be secrets
        metadata={
            "env": "SYSTEM_WEBHOOK_URL",
            "parse": _url,
            "about": "where events of this instance are sent, whatever its address",
        },
    )
    system_webhook_events: tuple[str, ...] = _env(
        "SYSTEM_WEBHOOK_EVENTS",
        (),
        _events,
        f"which: `all`, or of {', '.join(SYSTEM_EVENTS)}, separated by commas",
    )
    system_metadata: tuple[tuple[str, str], ...] = _env(
        "SYSTEM_META_*", (), _text, "sent with each of them, by what follows `SYSTEM_META_`"
    )

    prepend_filenames: bool = _env(
        "PREPEND_FILENAMES", True, _flag, "name outputs `<id>_<prefix>`; else `<id>`"
    )
    url_allow_hosts: str = _env(
        "URL_ALLOW_HOSTS",
        "",
        _hosts,
        "host globs, IPs and CIDRs that callers' URLs may reach although they are not public",
    )
    trusted_origins: str = _env(
        "HTTP_TRUSTED_ORIGINS", "", _origins, "comfyui-api's form of the same: exact origins"
    )
    max_input_mb: int = _env("MAX_INPUT_MB", 2048, _whole(1), "largest media input in MiB")
    fetch_timeout_s: float = _env(
        "FETCH_TIMEOUT_S", 600.0, _number(1), "longest time to fetch one media input"
    )
    max_model_gb: float = _env(
        "MAX_MODEL_GB", 0.0, _number(0), "largest model a caller may have fetched, in GiB; 0: any"
    )
    download_timeout_s: float = _env(
        "DOWNLOAD_TIMEOUT_S", 21600.0, _number(1), "longest time to fetch one model"
    )
    http_auth_origins: str = _env(
        "HTTP_AUTH_ALLOWED_ORIGINS",
        "",
        _origins,
        "origins of callers' URLs that HTTP_AUTH_HEADER_* is sent to; a manifest's get it anywhere",
    )
    allow_volumes: tuple[Path, ...] = _env(
        "ALLOW_VOLUMES", (), _paths, "folders that callers may have outputs stored in, by `volume`"
    )
    upload_tries: int = _env(
        "UPLOAD_TRIES", 4, _whole(1, 100), "tries to store an output, the first one included"
    )
    upload_timeout_s: float = _env(
        "UPLOAD_TIMEOUT_S",
        3600.0,
        _number(1),
        "longest time of one try to store an output; of small ones less",
    )
    output_storage: str = _secret(
        "OUTPUT_STORAGE",
        "where results too large for an answer go: a payload's upload object as JSON, "
        '`{"s3": {"bucket": "b", "prefix": "p/"}}`',
    )
    inline_max_mb: int = _env(
        "INLINE_MAX_MB",
        0,
        _whole(0),
        "MiB of an answer with its outputs inside; what is larger goes to OUTPUT_STORAGE; 0: any",
    )
    hf_token: str = _secret("HF_TOKEN", "token for Hugging Face")
    hf_endpoint: str = _env("HF_ENDPOINT", "", _text, "another hub than https://huggingface.co")
    civitai_token: str = _secret("CIVITAI_API_TOKEN", "token for Civitai")
    http_auth_name: str = _env(
        "HTTP_AUTH_HEADER_NAME", "", _text, "header sent to every other http(s) host of a model"
    )
    http_auth_value: str = _secret("HTTP_AUTH_HEADER_VALUE", "its value")
    https_proxy: str = _env(
        "HTTPS_PROXY", "", _proxy, "not used for downloads, which a warning tells; pip and git do"
    )
    http_proxy: str = _env("HTTP_PROXY", "", _proxy, "the same")
    aws_region: str = _env("AWS_REGION", "", _text, "region of S3; the keys are found by boto3")
    aws_default_region: str = _env("AWS_DEFAULT_REGION", "", _text, "the same; AWS_REGION wins")
    aws_endpoint: str = _env(
        "AWS_ENDPOINT_URL", "", _text, "an S3-compatible store; default: Amazon's"
    )
    azure_connection: str = _secret(
        "AZURE_STORAGE_CONNECTION_STRING", "Azure's account; or by the next ones"
    )
    azure_account: str = _env(
        "AZURE_STORAGE_ACCOUNT", "", _text, "its name; alone: the machine's own identity"
    )
    azure_key: str = _secret("AZURE_STORAGE_KEY", "its key")
    azure_sas_token: str = _secret("AZURE_STORAGE_SAS_TOKEN", "a SAS token in place of the key")
    google_key_file: Path | None = _env(
        "GOOGLE_APPLICATION_CREDENTIALS", None, _path, "JSON key of a Google service account"
    )
    google_endpoint: str = _env(
        "STORAGE_EMULATOR_HOST",
        "https://storage.googleapis.com",
        _text,
        "Google Cloud Storage's own, or a store that speaks like it",
    )
    # Of the RunPod worker, by the names that worker-comfyui's users know where it has one.
    runpod_concurrency: int = _env(
        "RUNPOD_CONCURRENCY",
        1,
        _whole(0, 256),
        "jobs that a RunPod worker takes at once; 0: as many as ENGINE_PREFETCH",
    )
    runpod_stream: bool = _env(
        "RUNPOD_STREAM", False, _flag, "a RunPod worker yields outputs as nodes finish (`/stream`)"
    )
    refresh_worker: bool = _env(
        "REFRESH_WORKER", False, _flag, "a RunPod worker ends after each job, for a fresh one"
    )
    serve_api_locally: bool = _env(
        "SERVE_API_LOCALLY",
        False,
        _flag,
        "the RunPod worker serves its SDK's own local API, on 0.0.0.0:8000 without authentication",
    )
    comfy_org_key: str = _secret(
        "COMFY_ORG_API_KEY", "comfy.org's key for partner nodes, of RunPod jobs that bring none"
    )
    comfy_log_level: str = _env(
        "COMFY_LOG_LEVEL", "", _text, "ComfyUI's own log level on RunPod, `DEBUG`"
    )
    volume_debug: bool = _env(
        "NETWORK_VOLUME_DEBUG", False, _flag, "a RunPod worker logs where models lie, and which"
    )
    bucket_endpoint: str = _env(
        "BUCKET_ENDPOINT_URL",
        "",
        _text,
        "a RunPod worker's bucket: OUTPUT_STORAGE where that is not set, and for all outputs of "
        "calls in worker-comfyui's form",
    )
    bucket_key_id: str = _secret("BUCKET_ACCESS_KEY_ID", "its key")
    bucket_secret: str = _secret("BUCKET_SECRET_ACCESS_KEY", "its secret")
    bucket_name: str = _env(
        "BUCKET_NAME", "", _text, "its name; default: the month, `11-26`, as RunPod's uploader has"
    )
    # Of the worker on Salad; the first one holds behind every gateway.
    gateway_timeout_s: float | None = _env(
        "GATEWAY_TIMEOUT_S",
        None,
        _number(0),
        "on SaladCloud, when what is in front cuts a caller's connection: requests of /prompt that "
        "would take longer are refused; 0: never; default: 100 without a queue worker, else 0",
    )
    metadata_uri: str = _env(
        "SALAD_METADATA_URI",
        "",
        _url,
        "Salad's metadata service; default on Salad: http://169.254.169.254:80",
    )
    queue_worker: Path | None = _env(
        "SALAD_QUEUE_WORKER", None, _path, "Salad's queue worker, kept running beside the server"
    )
    queue_path: str = _env(
        "SALAD_QUEUE_PATH",
        "",
        _route,
        "where it posts jobs, `path` of `queue_connection`; default: `/queue`",
    )
    reallocations: int = _env(
        "SALAD_REALLOCATIONS",
        3,
        _whole(0, 100),
        "how often a worker asks for another node (broken GPU, too little memory, slow line); "
        "counted by the process, as the next node knows nothing of this one; 0: never",
    )
    min_download_mbps: float = _env(
        "MIN_DOWNLOAD_MBPS",
        0.0,
        _number(0),
        "Mbit/s that a manifest's models must come with on Salad, else another node; 0: any",
    )
    min_download_window_s: float = _env(
        "MIN_DOWNLOAD_WINDOW_S", 30.0, _number(1), "seconds over which that is measured"
    )
    # Of `comfyfn deploy`; the keys and Salad's address of `comfyfn run --to` as well.
    runpod_api_key: str = _secret("RUNPOD_API_KEY", "key for RunPod's APIs, on who calls them")
    runpod_rest_url: str = _env(
        "RUNPOD_REST_URL", "https://api.runpod.io/v2", _url, "where `comfyfn deploy` finds RunPod"
    )
    salad_api_key: str = _secret("SALAD_API_KEY", "key for Salad's APIs, on who calls them")
    salad_api_url: str = _env(
        "SALAD_API_URL",
        "https://api.salad.com/api/public",
        _url,
        "where `comfyfn deploy` and `run --to salad:...` find Salad",
    )
    # Of `comfyfn run --to`.
    api_key: str = _secret(
        "COMFYFN_API_KEY", "sent as a bearer token to the URL of `comfyfn run --to`"
    )
    runpod_endpoint_url: str = _env(
        "RUNPOD_ENDPOINT_BASE_URL",
        "https://api.runpod.ai/v2",
        _url,
        "where `comfyfn run --to runpod:...` finds endpoints; `serve --as runpod` has a `/v2`",
    )
    modal_proxy_key: str = _secret(
        "MODAL_PROXY_TOKEN_ID", "sent by `comfyfn run --to` to *.modal.run as Modal-Key"
    )
    modal_proxy_secret: str = _secret("MODAL_PROXY_TOKEN_SECRET", "likewise as Modal-Secret")
    test_faults: bool = _env(
        "COMFYFN_TEST_FAULTS", False, _flag, "give the embedded engine its fault nodes (tests only)"
    )

    @property
    def state_folder(self) -> Path:
        """Where state is kept."""
        return self.state_dir or Path("~/.local/state/comfyfn").expanduser()

    @property
    def boot_limit_s(self) -> float:
        """Seconds the engine has to answer; comfyui-api's interval and tries win when set."""
        if self.startup_check_interval_s is None and self.startup_check_tries is None:
            return self.boot_timeout_s
        return (self.startup_check_interval_s or 1.0) * (self.startup_check_tries or 20)

    @classmethod
    def from_env(
        cls,
        environ: Environment | None = None,
        *,
        overrides: Environment | None = None,
        **defaults: Any,
    ) -> Settings:
        """Read the environment.

        Args:
            overrides: texts that win over the environment's, by variable.
            defaults: fields to have another default than theirs.

        Raises:
            SettingsError: naming every variable that cannot be used, and why.
        """
        environ = {**(os.environ if environ is None else environ), **(overrides or {})}
        values: dict[str, Any] = dict(defaults)
        faults: list[str] = []
        for spec in dataclasses.fields(cls):
            text = environ.get(spec.metadata["env"])
            if text is None or not text.strip():
                continue
            try:
                values[spec.name] = spec.metadata["parse"](text.strip())
            except ValueError as error:
                faults.append(f"{spec.metadata['env']}={text!r} {error}")
        if metadata := _metadata(environ):
            values["system_metadata"] = metadata
        faults += _clashes(values)
        if faults:
            raise SettingsError("; ".join(faults))
        return cls(**values)


def _clashes(values: Mapping[str, Any]) -> list[str]:
    faults = []
    if values.get("comfy_url") and values.get("engine") == "embedded":
        faults.append("COMFY_URL attaches to a ComfyUI, ENGINE=embedded does without one")
    if values.get("comfy_url") and values.get("comfy_command"):
        faults.append("COMFY_URL attaches to a running ComfyUI, CMD starts one: set one of them")
    if bool(values.get("http_auth_name")) != bool(values.get("http_auth_value")):
        faults.append("HTTP_AUTH_HEADER_NAME and HTTP_AUTH_HEADER_VALUE go together: set both")
    if values.get("webhook_secret") and not _BASE64.search(
        values["webhook_secret"].removeprefix("whsec_")
    ):
        faults.append("WEBHOOK_SECRET has no key in it: it is base64, `whsec_` before it or not")
    if values.get("system_webhook_url") and not values.get("system_webhook_events"):
        faults.append("SYSTEM_WEBHOOK_URL needs SYSTEM_WEBHOOK_EVENTS: `all`, or names of events")
    warm = values.get("warmup_file")
    if warm is not None and not warm.is_file():
        faults.append(f"WARMUP_PROMPT_FILE={str(warm)!r} is no file")
    return faults


def settings_table() -> str:
    """Write all settings as a Markdown table; docs/settings.md holds it."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for spec in dataclasses.fields(Settings):
        default = _written(spec.default)
        about = spec.metadata["about"].replace("|", "\\|")
        cell = f" `{default}` " if default else " "
        rows.append(f"| `{spec.metadata['env']}` |{cell}| {about} |")
    return "\n".join(rows) + "\n"


def _written(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    return "" if default is None or default == () else str(default)


def variable(name: str) -> str | None:
    """Give a variable that a deploy.yaml names; what it holds is for the platform alone."""
    return os.environ.get(name)


def inherited_environment() -> dict[str, str]:
    """Give a copy of the environment for a child process, without what only we may know."""
    return {name: text for name, text in os.environ.items() if not _is_secret(name)}


_SECRETS = (
    "WEBHOOK_SECRET",
    "SYSTEM_WEBHOOK_URL",
    "HTTP_AUTH_HEADER_VALUE",
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
    *("AWS_CONTAINER_AUTHORIZATION_TOKEN", "AZURE_CLIENT_SECRET", "AZURE_PASSWORD"),
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    *("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
    # Their URLs may have tokens in them.
    *("OUTPUT_STORAGE", "MANIFEST_JSON", "WARMUP_PROMPT_JSON", "WARMUP_PROMPT_URL"),
)
_SECRET_PREFIXES = (
    *("AZURE_STORAGE_", "BUCKET_", "RUNPOD_API_KEY", "RUNPOD_AI_API_KEY", "SALAD_API"),
    *("COMFYFN_API_KEY", "MODAL_PROXY_TOKEN_", "MODAL_TOKEN_"),
)


def names_secret(name: str) -> bool:
    """Tell whether a variable's value is a secret, or may have one in it."""
    return name in _SECRETS or any(
        name == spec.metadata["env"] and not spec.repr for spec in dataclasses.fields(Settings)
    )


def _is_secret(name: str) -> bool:
    return name in _SECRETS or name.startswith(_SECRET_PREFIXES)
