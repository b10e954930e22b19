"""Reads from ComfyUI's log which packs it could not load, and why. Pure.

ComfyUI goes on without them, prints the traceback, and at the end of its boot one line for each
pack with the time it took, marked `(IMPORT FAILED)` where it did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_TIMES = re.compile(r"\d\.\d+ seconds(?P<failed> \(IMPORT FAILED\))?: (?P<path>\S.*)$")
_CANNOT = re.compile(r"Cannot import (?P<path>.+?) module for custom nodes: ?(?P<why>.*)$")
_SKIPPED = re.compile(r"Skip (?P<path>.+?) module for custom nodes (?P<why>due to .*)$")
_ENTRYPOINT = re.compile(
    r"(?:Error while calling )?comfy_entrypoint in (?P<path>.+?)"
    r"(?:: (?P<why>.*)| (?P<not>(?:is not|did not) .*))$"
)
_RAISED = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*)(?:: (?P<said>.*))?$")
_MISSING = re.compile(r"No module named ['\"](?P<module>[\w.]+)['\"]")
_TRACEBACK = "Traceback (most recent call last):"


@dataclass(frozen=True, slots=True)
class PackFault:
    """A pack that ComfyUI does not have.

    Attributes:
        name: of its folder or file below `custom_nodes`.
        error: the exception, as `ModuleNotFoundError: No module named 'cv2'`.
        hint: what to do, where it is known.
        traceback: lines of the log.
    """

    name: str
    error: str
    hint: str | None = None
    traceback: tuple[str, ...] = ()


def failed_imports(log: Iterable[str]) -> list[PackFault]:
    """Name the packs that failed.

    Args:
        log: ComfyUI's lines from its start on.
    """
    lines = list(log)
    times = {_name(found["path"]): bool(found["failed"]) for found in _matches(_TIMES, lines)}
    reasons = _reasons(lines)
    failed = [name for name, bad in times.items() if bad]
    failed += [name for name in reasons if name not in times]
    return [_fault(name, reasons.get(name)) for name in failed]


def not_loaded(
    expected: Iterable[str], seen: Iterable[str], modules: Iterable[str]
) -> list[PackFault]:
    """Name the packs that ComfyUI never looked at.

    Args:
        expected: names of packs that must have been loaded.
        seen: names that the log has, loaded or failed.
        modules: `python_module` of every node class, as `custom_nodes.pack`.
    """
    registered = (
        module.removeprefix("custom_nodes.")
        for module in modules
        if module.startswith("custom_nodes.")
    )
    there = {_folded(name) for name in (*seen, *registered)}
    return [
        PackFault(name, "ComfyUI did not load it", "is its folder in custom_nodes?")
        for name in expected
        if _folded(name) not in there
    ]


def same_pack(one: str, other: str) -> bool:
    """Tell whether two names of a folder or file below `custom_nodes` are one pack's."""
    return _folded(one) == _folded(other)


def _matches(pattern: re.Pattern[str], lines: Iterable[str]) -> Iterable[re.Match[str]]:
    return (found for line in lines if (found := pattern.search(line)))


def _reasons(lines: Sequence[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Find what was said about each pack: the error, and the traceback before it."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    begun: int | None = None
    for at, line in enumerate(lines):
        if line.strip().endswith(_TRACEBACK):
            # A chained exception prints several; the first begins the whole.
            begun = at if begun is None else begun
            continue
        if cannot := _CANNOT.search(line):
            trace = tuple(lines[begun:at]) if begun is not None else ()
            found[_name(cannot["path"])] = (_raised(trace, cannot["why"]), trace)
            begun = None
        elif other := _SKIPPED.search(line) or _ENTRYPOINT.search(line):
            groups = other.groupdict()
            why = groups.get("why") or f"comfy_entrypoint {groups.get('not')}"
            found[_name(other["path"])] = (why, ())
            begun = None
        elif _TIMES.search(line):
            begun = None
    return found


def _raised(trace: Sequence[str], why: str) -> str:
    """Give the exception with its type: ComfyUI's own line has only what it said."""
    first = why.split("\n", 1)[0]
    for line in reversed(trace):
        found = _RAISED.match(line.strip()) if line[:1].strip() else None
        if found is not None and (found["said"] or "").startswith(first):
            return line.strip()
    return why or "unknown error"


def _fault(name: str, reason: tuple[str, tuple[str, ...]] | None) -> PackFault:
    if reason is None:
        return PackFault(name, "its import failed; the log no longer has the reason")
    error, trace = reason
    missing = _MISSING.search(error)
    hint = None
    if missing is not None:
        module = missing["module"].split(".")[0]
        hint = f"the module {module} is not installed: add its package to `pip`"
    return PackFault(name, error, hint, trace)


def _name(path: str) -> str:
    return re.split(r"[/\\]", path.strip().rstrip("/\\"))[-1]


def _folded(name: str) -> str:
    return name.removesuffix(".py").casefold()
