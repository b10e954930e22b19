"""Whether outputs are the same as another time: by their bytes, by their pixels, by their words."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local_server.remote.result import Saved

_FACTS = ("node_id", "title", "kind", "filename", "bytes", "sha256", "pixels")


def facts_of(saved: Saved) -> dict[str, Any]:
    """Give what is kept of an output: its hashes, and of a text all of it."""
    facts = {name: saved.facts[name] for name in _FACTS if saved.facts.get(name) is not None}
    if saved.text is not None:
        facts["text"] = saved.text
    if saved.path is not None:
        with saved.path.open("rb") as source:
            facts["sha256"] = hashlib.file_digest(source, "sha256").hexdigest()
        pixels = pixels_of(saved.path)
        if pixels is not None:
            facts["pixels"] = pixels
    return facts


def pixels_of(source: Any) -> str | None:
    """Hash a picture's pixels, all its frames; None where it is no picture.

    A picture's file has the graph in it, with names of this run: the same pixels are other bytes.
    """
    import warnings

    from PIL import Image, ImageSequence

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(source) as image:
            digest = hashlib.sha256()
            for frame in ImageSequence.Iterator(image):
                digest.update(f"{frame.size}".encode())
                digest.update(frame.convert("RGBA").tobytes())
            return digest.hexdigest()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def differences(expected: list[dict[str, Any]], saved: list[Saved]) -> list[str] | None:
    """Tell what differs from the first run, a line each; None where nothing is known of that."""
    hashed = [one for one in expected if one.get("sha256") or one.get("text") is not None]
    if not hashed:
        return None
    told = (
        [] if len(expected) == len(saved) else [f"{len(saved)} outputs, and {len(expected)} then"]
    )
    for before, after in zip(expected, saved, strict=False):
        now = facts_of(after)
        name = f"{now.get('title') or now.get('node_id') or 'output'} ({now.get('filename')})"
        line = _difference(before, now)
        if line:
            told.append(f"{name}: {line}")
    return told


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    if isinstance(before.get("text"), str):
        return "" if before["text"] == now.get("text") else "another text"
    if before.get("sha256") is None or before["sha256"] == now.get("sha256"):
        return ""
    if before.get("pixels") and now.get("pixels"):
        return "" if before["pixels"] == now["pixels"] else "other pixels"
    return "other bytes (the pixels of then are not known)" if now.get("pixels") else "other bytes"
