"""Reading what a node told, `{"images": [{"filename", ...}], "text": [...]}`, by shape. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Told = dict[str, Any]


def announced_files(told: Mapping[str, Any]) -> Iterator[Told]:
    """Give every object with a `filename`, under any key."""
    for value in told.values():
        for entry in value if isinstance(value, list | tuple) else (value,):
            if isinstance(entry, dict) and isinstance(entry.get("filename"), str):
                yield entry


def joined(before: Told, after: Told) -> Told:
    """Give both of what was told under one node: those that it was expanded to bear its name."""
    both = {**before, **after}
    for key in before.keys() & after.keys():
        if isinstance(before[key], list) and isinstance(after[key], list):
            both[key] = [*before[key], *after[key]]
    return both


def without_folder(told: Mapping[str, Any], uid: str) -> Told:
    """Give what a node told without its job's folder: that is nobody's business outside.

    Args:
        uid: the job's, which its folder is called by.
    """

    def outside(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [outside(entry) for entry in value]
        return _without_folder(value, uid) if isinstance(value, dict) else value

    return {key: outside(value) for key, value in told.items()}


def _without_folder(item: Told, uid: str) -> Told:
    clean = {}
    for key, value in item.items():
        if not (isinstance(value, str) and uid in value):
            clean[key] = value
        elif key == "subfolder":
            clean[key] = value.partition(uid)[2].lstrip("/\\")
        # else: a path in full, as some node packs tell it
    return clean


def is_temp(item: Told) -> bool:
    """Tell whether a file is a preview, from the engine's temp folder."""
    return item.get("type") == "temp"


def is_output(item: Told, *, temp: bool) -> bool:
    """Tell whether a file is a result; previews are only where `temp` asks for them."""
    return item.get("type") != "input" and (temp or not is_temp(item))


def texts(told: Mapping[str, Any]) -> Iterator[str]:
    """Give every text, under any key."""
    for value in told.values():
        for entry in value if isinstance(value, list | tuple) else (value,):
            if isinstance(entry, str):
                yield entry
