"""`modal run adapters/modal_app.py` on the user's machine: a file in, outputs as files."""

from __future__ import annotations

import base64
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable

FETCH_S = 300


def say(line: str) -> None:
    """Tell the user."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def read_payload(path: Path) -> dict[str, Any]:
    """Read a payload, or a bare graph as ComfyUI's "Export (API)" writes it.

    Raises:
        SystemExit: it is neither.
    """
    given = orjson.loads(path.read_bytes())
    if not isinstance(given, dict):
        raise SystemExit(f"{path}: neither a payload nor a graph")
    return given if "prompt" in given or "workflow" in given else {"prompt": given}


def follow(items: Iterable[dict[str, Any]], folder: Path) -> int:
    """Show what a stream tells, and save its answer; the status is 1 where the job failed."""
    status = 1
    for item in items:
        data = item["data"]
        if item["type"] == "phase":
            say(str(data.get("phase")))
        elif item["type"] == "progress" and data.get("overall_pct") is not None:
            say(f"{data['overall_pct']:.0f} %")
        elif item["type"] == "answer":
            for path in save(data, folder):
                say(f"saved {path}")
            status = 0
        elif item["type"] == "error":
            say(f"{data.get('code')}: {data.get('error')}")
            if data.get("hint"):
                say(f"hint: {data['hint']}")
    return status


def save(answer: dict[str, Any], folder: Path) -> list[Path]:
    """Save the outputs of an answer; what went to storage is fetched where its URL is http(s)."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for name, text in zip(answer.get("filenames", []), answer.get("images", []), strict=True):
        path = folder / Path(name).name
        if "://" not in text[:16]:
            path.write_bytes(base64.b64decode(text))
        elif text.startswith(("http://", "https://")):
            with urllib.request.urlopen(text, timeout=FETCH_S) as source:  # noqa: S310
                path.write_bytes(source.read())
        else:
            say(f"stored at {text}")
            continue
        saved.append(path)
    return saved


def follow_fill(items: Iterable[dict[str, Any]]) -> int:
    """Show how the Volume is filled; the status is 1 where a model could not be had."""
    status = 0
    for item in items:
        if item["type"] == "progress":
            total = f" of {item['total'] / 1e6:,.0f}" if item["total"] else ""
            speed = item["bytes_per_s"] / 1e6
            say(f"{item['model']}: {item['bytes'] / 1e6:,.0f}{total} MB, {speed:,.0f} MB/s")
        elif item["type"] == "there":
            say(f"{item['model']}: {item['note']}")
        else:
            say(f"{item['model']}: failed: {item['error']}")
            status = 1
    return status
