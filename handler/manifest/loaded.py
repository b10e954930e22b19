"""Did the engine load the node packs that the manifest brought?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from handler.engine.import_faults import not_loaded, same_pack
from handler.manifest.faults import InstallFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from handler.manifest.records import NodePack


def check_loaded(
    packs: Sequence[NodePack], findings: Mapping[str, Any], modules: Iterable[str]
) -> list[str]:
    """Make sure that every pack is loaded.

    Args:
        findings: `custom_nodes_failed` and `custom_nodes_s` of the engine's boot report.
        modules: `python_module` of every node class.

    Returns:
        A line for each optional pack that is not.

    Raises:
        InstallFailed: naming every other one with its error and what to do.
    """
    failed: list[dict[str, Any]] = list(findings.get("custom_nodes_failed") or [])
    seen = [*(findings.get("custom_nodes_s") or {}), *(fault["name"] for fault in failed)]
    names = [pack.name for pack in packs]
    failed += (
        {"name": fault.name, "error": fault.error, "hint": fault.hint, "traceback": []}
        for fault in not_loaded(names, seen, modules)
    )
    missing = [
        (pack, fault) for pack in packs for fault in failed if same_pack(pack.name, fault["name"])
    ]
    required = [fault for pack, fault in missing if not pack.optional]
    if required:
        raise _fault(required)
    return [_line(fault) for _, fault in missing]


def _line(fault: Mapping[str, Any]) -> str:
    return f"node pack {fault['name']} does not load: {fault['error']}"


def _fault(faults: Sequence[Mapping[str, Any]]) -> InstallFailed:
    hints = dict.fromkeys(f"{fault['name']}: {fault['hint']}" for fault in faults if fault["hint"])
    return InstallFailed(
        "\n".join(map(_line, faults)),
        hint="; ".join(hints) or "mark a pack `optional: true` to boot without it",
        details=[{key: fault[key] for key in ("name", "error", "hint")} for fault in faults],
        log_tail=[line for fault in faults for line in fault["traceback"]] or None,
    )
