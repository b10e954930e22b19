"""The hardware table of the ready-made manifests, made from what each says under `requires`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from handler.errors import BootFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["refresh_readme", "requires_table"]

BEGIN = "<!-- requires: begin -->"
END = "<!-- requires: end -->"

_HEAD = (
    "Manifest",
    "Least VRAM",
    "GPU",
    "System RAM",
    "Typical time",
    "Pattern",
    "Image",
    "Download",
)


def requires_table(folder: Path) -> str:
    """Make the table of every `*.yaml` in a folder, the smallest machine first.

    Returns:
        A Markdown table that ends with a line break. What a manifest does not say is a dash.

    Raises:
        BootFailed: a manifest cannot be read, or is no mapping.
    """
    found = [(path.stem, _manifest(path)) for path in sorted(folder.glob("*.yaml"))]
    found.sort(key=lambda entry: _weight(entry[1]))
    rows = [_HEAD, ("---",) * len(_HEAD), *(_row(name, entry) for name, entry in found)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def refresh_readme(folder: Path) -> bool:
    """Put the table between the marks of the folder's README.md; tell whether that changed it.

    Raises:
        BootFailed: a manifest or the README cannot be read, or it has not both marks.
    """
    readme = folder / "README.md"
    try:
        text = readme.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BootFailed(f"{readme} cannot be read: {error}", blame="image") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BootFailed(f"{readme} has no place for the table: {BEGIN} and {END}", blame="image")
    fresh = f"{before}{BEGIN}\n{requires_table(folder)}{END}{after}"
    if fresh == text:
        return False
    readme.write_text(fresh, encoding="utf-8")
    return True


def _manifest(path: Path) -> Mapping[str, Any]:
    try:
        entry = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BootFailed(f"{path} cannot be read: {error}", blame="image") from error
    if not isinstance(entry, dict):
        raise BootFailed(f"{path} is no mapping", blame="image")
    return entry


def _requires(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return entry.get("requires") or {}


def _weight(entry: Mapping[str, Any]) -> tuple[bool, float, float]:
    """Give what manifests are ordered by: images before videos, then by memory."""
    needs = _requires(entry)
    return needs.get("pattern") == "queue", needs.get("vram_gb") or 0, needs.get("ram_gb") or 0


def _row(name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    needs = _requires(entry)
    return (
        f"[{name}]({name}.yaml)",
        _gigabytes(needs.get("vram_gb")),
        needs.get("gpu") or "-",
        _gigabytes(needs.get("ram_gb")),
        _span(needs.get("typical_s")),
        needs.get("pattern") or "-",
        needs.get("image") or "-",
        _download(entry),
    )


def _gigabytes(number: float | None) -> str:
    return f"{number:g} GB" if number else "-"


def _span(seconds: list[float] | None) -> str:
    """Word a span: `[2, 5]` is "2-5 s", `[60, 300]` is "1-5 min"."""
    if not seconds:
        return "-"
    unit, word = (60, "min") if min(seconds) >= 60 else (1, "s")
    return f"{'-'.join(f'{number / unit:g}' for number in seconds)} {word}"


def _download(entry: Mapping[str, Any]) -> str:
    models = entry.get("models") or {}
    files = [*(models.get("before_start") or ()), *(models.get("after_start") or ())]
    sizes = [file.get("size") for file in files]
    known = sum(size or 0 for size in sizes) / 1e9
    if not known:
        return "-"
    return f"{known:.1f} GB" if all(sizes) else f"over {known:.1f} GB"
