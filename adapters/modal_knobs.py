"""What `modal deploy` may be told: one table, each row a variable of the deploying shell.

The container imports the app again, without that shell: what was set there is handed on in its own
environment (`Knobs.environment`), so that both read the same table.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from handler.settings import SettingsError

Environment = Mapping[str, str]
HOME, PYTHON = "/opt/ComfyUI", "/opt/comfy-venv/bin/python"
FOLDER = "/opt/comfyfn"
MARGIN_S = 60
"""A limit of the platform is so much longer than ours: ours ends a job with its reason."""
GRACE_S = 20
"""Modal kills a container 30 s after it was told to end."""
_GPU = re.compile(r"[A-Za-z0-9-]+(:[1-8])?")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _text(text: str) -> str:
    return text


def _whole(low: int, high: int = 2**31) -> Any:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError("is no whole number") from None
        if not low <= value <= high:
            raise ValueError(f"is not between {low} and {high}")
        return value

    return parse


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("is no number") from None
    if not 0.1 <= value <= 1024:
        raise ValueError("is not between 0.1 and 1024")
    return value


def _folder(text: str) -> str:
    if not re.fullmatch(r"(/[\w.-]+)+", text):
        raise ValueError("is no absolute path")
    return text


def _flag(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True}
    words |= {"false": False, "0": False, "no": False, "off": False}
    try:
        return words[text.lower()]
    except KeyError:
        raise ValueError("is neither true nor false") from None


def _gpus(text: str) -> tuple[str, ...]:
    if text.lower() in {"none", "cpu"}:
        return ()
    found = _list(text)
    if not found or not all(map(_GPU.fullmatch, found)):
        raise ValueError("is no list of GPUs, as L40S or H100:2,A100-80GB; `none` is for none")
    return found


def _list(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (one.strip() for one in text.split(","))))


def _names(text: str) -> tuple[str, ...]:
    return tuple(map(_name, _list(text)))


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("is no name: letters, digits, `.`, `_` and `-`, 64 at most")
    return text


def _mode(text: str) -> str:
    if text.lower() not in {"off", "cpu", "gpu"}:
        raise ValueError("is none of off, cpu, gpu")
    return text.lower()


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for word in shlex.split(text):
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError("is no list of NAME=value, quoted as in a shell")
        pairs.append((name, value))
    return tuple(pairs)


def _knob(name: str, default: Any, parse: Any, about: str) -> Any:
    return dataclasses.field(
        default=default, metadata={"env": f"COMFYFN_{name}", "parse": parse, "about": about}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """The table. Times are in seconds, memory in MiB."""

    app: str = _knob("APP", "comfyfn", _name, "name of the app")
    gpu: tuple[str, ...] = _knob(
        "GPU", ("L40S",), _gpus, "GPU, or several by preference: `H100,A100-80GB`; `none`"
    )
    cpu: float = _knob("CPU", 4.0, _number, "cores")
    memory: int = _knob("MEMORY", 16384, _whole(512), "memory in MiB")
    region: tuple[str, ...] = _knob("REGION", (), _list, "regions, `us-east,eu`; any by default")
    min_containers: int = _knob("MIN_CONTAINERS", 0, _whole(0), "containers that are always up")
    max_containers: int = _knob("MAX_CONTAINERS", 4, _whole(1), "the most, which bounds the cost")
    buffer_containers: int = _knob("BUFFER_CONTAINERS", 0, _whole(0), "more while others are busy")
    scaledown_window: int = _knob(
        "SCALEDOWN_WINDOW", 120, _whole(2, 1200), "an idle container is kept so long"
    )
    max_inputs: int = _knob(
        # With one input at a time, Modal runs our event loop during inputs alone.
        "MAX_INPUTS",
        8,
        _whole(2, 1000),
        "calls and requests in one container at once",
    )
    target_inputs: int = _knob(
        "TARGET_INPUTS", 2, _whole(1, 1000), "how many Modal aims at: one runs, one fetches"
    )
    job_timeout: int = _knob("JOB_TIMEOUT", 1800, _whole(10, 86000), "a job's total time")
    timeout: int = _knob(
        "TIMEOUT", 0, _whole(0, 86400), "Modal's limit of a call; 0: a minute over the job's"
    )
    startup_timeout: int = _knob(
        "STARTUP_TIMEOUT", 900, _whole(120, 86400), "Modal's limit of a start; the boot's is less"
    )
    fill_timeout: int = _knob("FILL_TIMEOUT", 14400, _whole(60, 86400), "to fetch the models")
    snapshot: Literal["off", "cpu", "gpu"] = _knob(
        "SNAPSHOT", "cpu", _mode, "memory snapshot: `off`, `cpu`, or `gpu` (alpha at Modal)"
    )
    proxy_auth: bool = _knob(
        "PROXY_AUTH", True, _flag, "whether web requests need a Modal-Key and a Modal-Secret"
    )
    label: str = _knob("LABEL", "", _name, "of the web address; by default Modal's own")
    models_volume: str = _knob("MODELS_VOLUME", "comfyfn-models", _name, "Volume with the models")
    state_volume: str = _knob(
        "STATE_VOLUME", "comfyfn-state", _name, "Volume with what containers tell each other"
    )
    secrets: tuple[str, ...] = _knob(
        "SECRETS", (), _names, "Modal Secrets whose keys are settings: tokens, OUTPUT_STORAGE, ..."
    )
    environ: tuple[tuple[str, str], ...] = _knob(
        "ENV", (), _pairs, "more settings, `NAME=value NAME='other value'`; no secrets"
    )
    volumes: str = _knob("VOLUMES", "/vol", _folder, "folder that the Volumes are mounted in")
    manifest: str = _knob("MANIFEST", "", _text, "manifest (.yaml, .yml, .json) of this machine")
    workflows: str = _knob("WORKFLOWS", "", _text, "folder of graphs that are called by name")
    warmup: str = _knob("WARMUP", "", _text, "graph that is run once at each start")
    comfyui: str = _knob(
        "COMFYUI", "", _text, "version or commit of ComfyUI; default: the manifest's, else 0.3.64"
    )
    base_image: str = _knob(
        "BASE_IMAGE", "", _text, "registry image, as nvidia/cuda:12.8.1-devel-ubuntu24.04"
    )
    torch_index: str = _knob(
        "TORCH_INDEX", "https://download.pytorch.org/whl/cu128", _text, "where torch comes from"
    )

    @classmethod
    def read(cls, environ: Environment | None = None) -> Knobs:
        """Read the environment of whoever deploys, or what it handed on.

        Raises:
            SettingsError: naming every variable that cannot be used, and why.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        faults: list[str] = []
        for spec in dataclasses.fields(cls):
            text = environ.get(spec.metadata["env"], "").strip()
            if not text:
                continue
            try:
                values[spec.name] = spec.metadata["parse"](text)
            except ValueError as error:
                faults.append(f"{spec.metadata['env']}={text!r} {error}")
        knobs = cls(**values)
        faults += knobs.clashes()
        if faults:
            raise SettingsError("; ".join(faults))
        return knobs

    def clashes(self) -> list[str]:
        """Tell what does not go together."""
        faults = []
        if self.timeout and self.timeout <= self.job_timeout:
            faults.append(
                f"COMFYFN_TIMEOUT={self.timeout} must be over COMFYFN_JOB_TIMEOUT="
                f"{self.job_timeout}: Modal would end a call before its job can tell why"
            )
        if self.min_containers > self.max_containers:
            faults.append("COMFYFN_MIN_CONTAINERS is over COMFYFN_MAX_CONTAINERS")
        if self.target_inputs > self.max_inputs:
            faults.append("COMFYFN_TARGET_INPUTS is over COMFYFN_MAX_INPUTS")
        if self.snapshot == "gpu" and not self.gpu:
            faults.append("COMFYFN_SNAPSHOT=gpu needs a GPU, and COMFYFN_GPU=none")
        return faults

    @property
    def call_limit_s(self) -> int:
        """Modal's limit of a call."""
        return self.timeout or self.job_timeout + MARGIN_S

    @property
    def models_folder(self) -> str:
        """Where the Volume of models is mounted."""
        return f"{self.volumes}/models"

    @property
    def state_folder(self) -> str:
        """Where the Volume of state is mounted."""
        return f"{self.volumes}/state"

    def files(self) -> dict[str, tuple[Path, str]]:
        """Give the files of this machine, each with its place in the image, by setting."""
        found = {}
        for setting, text, place in (
            ("MANIFEST", self.manifest, f"{FOLDER}/manifest{Path(self.manifest).suffix}"),
            ("WARMUP_PROMPT_FILE", self.warmup, f"{FOLDER}/warmup.json"),
            ("WORKFLOW_DIR", self.workflows, f"{FOLDER}/workflows"),
        ):
            if text:
                found[setting] = (Path(text).expanduser().absolute(), place)
        return found

    def environment(self) -> dict[str, str | None]:
        """Give the container's environment: its settings, and these knobs again."""
        env: dict[str, str | None] = {
            "HOST": "0.0.0.0",  # noqa: S104  # it has a public name; nothing listens
            "LOG_FORMAT": "json",
            "COMFY_HOME": HOME,
            "COMFY_PYTHON": PYTHON,
            "MODEL_DIR": self.models_folder,
            "MODEL_ROOTS": f"{FOLDER}/models",  # what packs brought at build
            "CACHE_DIR": f"{self.models_folder}/.comfyfn-cache",
            "STATE_DIR": "/tmp/comfyfn-state",  # noqa: S108  # a Volume is no place for locks
            "JOB_TIMEOUT_S": str(self.job_timeout),
            "BOOT_TIMEOUT_S": str(self.startup_timeout - MARGIN_S),
            "DRAIN_TIMEOUT_S": str(GRACE_S),
            **{setting: place for setting, (_, place) in self.files().items()},
            **dict(self.environ),
        }
        if not self.gpu:
            env.setdefault("ALLOW_CPU", "true")
        return {**env, **self._changed()}

    def _changed(self) -> dict[str, str]:
        """Write what differs from the defaults as it is read again."""
        told = {}
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if value != spec.default:
                told[spec.metadata["env"]] = _written(spec.name, value)
        return told


def _written(name: str, value: Any) -> str:
    if name == "environ":
        return shlex.join(f"{key}={text}" for key, text in value)
    if name == "gpu" and not value:
        return "none"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def image_id() -> str:
    """Name the image that runs, as Modal tells its containers; "" where it does not."""
    return os.environ.get("MODAL_IMAGE_ID", "")


def knobs_table() -> str:
    """Write the knobs as a Markdown table."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for spec in dataclasses.fields(Knobs):
        default = _written(spec.name, spec.default) if spec.default not in ("", ()) else ""
        cell = f" `{default}` " if default else " "
        rows.append(f"| `{spec.metadata['env']}` |{cell}| {spec.metadata['about']} |")
    return "\n".join(rows) + "\n"
