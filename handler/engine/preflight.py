"""What ComfyUI's interpreter is asked before it is started: its GPU, its folders of models.

Without the first, a driver too old for torch shows as a ComfyUI that dies in its boot, again and
again. The second is for roots beside ComfyUI's own, see `handler.engine.roots`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.errors import BootFailed

log = logging.getLogger("comfyfn.engine")
PROBE = Path(__file__).with_name("probe_gpu.py")
FOLDERS_PROBE = Path(__file__).with_name("probe_folders.py")
PROBE_TIMEOUT_S = 60.0
FOLDERS_TIMEOUT_S = 10.0
KILL_WAIT_S = 1.0
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Preflight:
    """What ComfyUI's interpreter found.

    Attributes:
        usable: a GPU that the installed torch can use.
        reason: why not, else empty.
        torch: version of torch, None where it is not installed.
        gpu: name of the first device.
        vram_mb: its memory in MiB.
    """

    usable: bool
    reason: str = ""
    torch: str | None = None
    gpu: str | None = None
    vram_mb: int | None = None

    @property
    def words(self) -> str:
        """Say it in a line."""
        if self.usable:
            memory = "" if self.vram_mb is None else f", {self.vram_mb} MiB"
            return f"{self.gpu or 'a GPU of ROCm'}{memory}, torch {self.torch}"
        return f"no usable GPU: {self.reason}"


def judge(found: dict[str, Any]) -> Preflight:
    """Read the probe's JSON. Pure."""
    torch, gpu = found.get("torch"), found.get("gpu") or {}
    version = torch and torch.get("__version__")
    if torch is None:
        return Preflight(usable=False, reason="torch is not installed for this interpreter")
    if torch.get("hip"):
        # ROCm has no libcuda to ask; torch on AMD finds its devices itself.
        return Preflight(usable=True, torch=version)
    if not torch.get("cuda"):
        return Preflight(
            usable=False, reason=f"torch {version} is a build without CUDA", torch=version
        )
    if gpu.get("error"):
        return Preflight(usable=False, reason=gpu["error"], torch=version)
    if not gpu.get("devices"):
        return Preflight(usable=False, reason="the driver shows no GPU", torch=version)
    device = gpu["devices"][0]
    need, have = int(str(torch["cuda"]).split(".")[0]), gpu["driver_cuda"]
    reason = ""
    if have[0] < need:  # within one major version CUDA is compatible
        reason = (
            f"the driver supports CUDA {have[0]}.{have[1]}, torch {version} needs CUDA {need}: "
            "pick a host with a newer driver, or an image with an older torch"
        )
    return Preflight(
        usable=not reason,
        reason=reason,
        torch=version,
        gpu=device["name"],
        vram_mb=device["vram_bytes"] // MIB,
    )


def preflight(python: Path, timeout_s: float = PROBE_TIMEOUT_S) -> Preflight:
    """Ask ComfyUI's interpreter.

    Raises:
        BootFailed: the interpreter cannot be run, or the driver hangs.
    """
    try:
        return judge(json.loads(_ask([str(python), str(PROBE)], timeout_s)))
    except subprocess.TimeoutExpired as error:
        raise BootFailed(
            f"the GPU check did not end within {timeout_s:g} s: the driver hangs",
            hint="move to another host; nvidia-smi should hang there as well",
            details={"interpreter": str(python), "cause": "gpu_fault"},
            log_tail=_said(error),
        ) from error
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise BootFailed(
            f"ComfyUI's interpreter {python} cannot be used: {error}",
            hint="set COMFY_PYTHON to the Python of ComfyUI's virtual environment",
            log_tail=_said(error),
            blame="image",
        ) from error


def model_folders(
    python: Path, home: Path, timeout_s: float = FOLDERS_TIMEOUT_S
) -> dict[str, Any] | None:
    """Ask ComfyUI for its registry of model folders, see `probe_folders.py`.

    Returns:
        `models_dir`, and `folders`: name -> [paths, suffixes]. None where it cannot be had: that is
        told to the log, and no reason not to start.
    """
    # -B: an image's ComfyUI is not to change because it was asked.
    command = [str(python), "-B", str(FOLDERS_PROBE), str(home)]
    try:
        said = _ask(command, timeout_s).splitlines()
        found = json.loads(said[-1] if said else b"")
        return {"models_dir": str(found["models_dir"]), "folders": dict(found["folders"])}
    except (OSError, subprocess.SubprocessError, LookupError, TypeError, ValueError) as error:
        log.warning("ComfyUI does not tell its model folders, the usual ones are taken: %s", error)
        for line in (_said(error) or [])[-3:]:
            log.warning("probe | %s", line)
        return None


def _ask(command: list[str], timeout_s: float) -> bytes:
    asked = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        answer, said = asked.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        asked.kill()
        # In a driver's call even SIGKILL waits: `subprocess.run` would, too, without an end.
        with contextlib.suppress(subprocess.TimeoutExpired):
            asked.communicate(timeout=KILL_WAIT_S)
        raise
    if asked.returncode:
        raise subprocess.CalledProcessError(asked.returncode, command, answer, said)
    return answer


def _said(error: Exception) -> list[str] | None:
    said = getattr(error, "stderr", None) or b""
    return said.decode(errors="replace").splitlines()[-20:] or None
