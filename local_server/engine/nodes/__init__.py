"""The engine's nodes, by kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_server.engine.nodes import (
    composite,
    effects,
    load,
    mask,
    primitive,
    save,
    scale,
    stitch,
    transform,
)

if TYPE_CHECKING:
    from local_server.engine.schema import Node

_MODULES = (load, scale, transform, stitch, effects, composite, mask, save, primitive)


def catalog(*, test_faults: bool) -> dict[str, Node]:
    """Give all nodes by name; those that fail on purpose only if asked for."""
    found = [node for module in _MODULES for node in module.NODES]
    if test_faults:
        from local_server.engine.nodes import faults, models

        found += (*faults.NODES, *models.NODES)
    return {node.name: node for node in found}
