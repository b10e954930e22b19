"""The manifests and workflows that ship with the package."""

from __future__ import annotations

from pathlib import Path

import handler

SAMPLE = "workflows/sample/workflow.json"


def bundled(name: str) -> Path:
    """Find a shipped file: inside an installed wheel, else in the checkout beside the packages.

    Raises:
        FileNotFoundError: it did not ship.
    """
    package = Path(handler.__file__).parent
    for root in (package / "_bundled", package.parent):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"{name} is not part of this installation")
