"""The manifest that workers on RunPod and Salad are given, and the limit of their jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from handler.manifest.document import Entry, parse_document
from local_server.deploy.faults import DeployFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handler.manifest.records import Manifest
    from local_server.deploy.schema import Deploy

MOST_BYTES = 32 << 10
"""Platforms tell no limit of a variable; a process's whole environment has some, and is copied."""

_SAID = ("MANIFEST", "MANIFEST_JSON")
_WARMUPS = ("WARMUP_PROMPT_JSON", "WARMUP_PROMPT_FILE", "WARMUP_PROMPT_URL")
_NUMBERS = ("size", "vram_gb", "ram_gb", "typical_s")
_MARGIN, _MOST_MARGIN_S = 0.05, 10.0


def manifest_env(
    deploy: Deploy, manifest: Manifest | None, env: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """Give the variable that hands the manifest on, and hints; none where the image has it.

    Args:
        env: what deploy.yaml says: a manifest that it names wins.

    Raises:
        DeployFailed: it is too large for a variable.
    """
    if manifest is None or manifest.path is None or deploy.manifest_baked:
        return {}, []
    if any(name in env for name in _SAID):
        return {}, []
    path = manifest.path
    text = as_json(path.read_text(encoding="utf-8-sig"), is_json=path.suffix.lower() == ".json")
    size = len(text.encode())
    if size > MOST_BYTES:
        raise DeployFailed(
            f"{path.name} has {size} bytes as JSON, and a variable is sent {MOST_BYTES} at most",
            hint="bake it into the image (docker/examples/Dockerfile) and say "
            "`manifest_baked: true` in deploy.yaml",
        )
    hints = [f"{path.name} is sent as MANIFEST_JSON; `manifest_baked: true` where the image has it"]
    warmup = path.with_name(f"{path.stem}.warmup.json")
    if warmup.is_file() and not any(name in env for name in _WARMUPS):
        hints.append(f"{warmup.name} is not sent: WARMUP_PROMPT_JSON in `env` can have its text")
    lock = path.with_name(f"{path.stem}.lock.yaml")
    if lock.is_file():
        hints.append(f"{lock.name} is not sent: an image with both has what it pins")
    return {"MANIFEST_JSON": text}, hints


def as_json(text: str, *, is_json: bool = False) -> str:
    """Write a manifest as compact JSON that means the same: a version `0.30` stays `0.30`."""
    whole = _plain(parse_document(text, is_json=is_json), "")
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":"))


def _plain(entry: Entry, key: str) -> Any:
    if isinstance(entry.value, dict):
        return {name: _plain(inner, name) for name, inner in entry.value.items()}
    if isinstance(entry.value, list):
        return [_plain(inner, key) for inner in entry.value]
    if entry.value is None or isinstance(entry.value, bool | str):
        return entry.value
    return entry.value if key in _NUMBERS else entry.text


def job_limit_env(timeout_s: int, env: Mapping[str, Any]) -> dict[str, str]:
    """Give the limit of our own that ends a job before its platform does: its caller is told why.

    Args:
        env: what deploy.yaml says; it wins.
    """
    if "JOB_TIMEOUT_S" in env:
        return {}
    return {"JOB_TIMEOUT_S": f"{timeout_s - min(timeout_s * _MARGIN, _MOST_MARGIN_S):.10g}"}
