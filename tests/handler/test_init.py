"""The package itself."""

from __future__ import annotations

import subprocess
import sys

from live import REPO


def test_importing_the_package_imports_nothing():
    """On a cold start the engine's process is launched before the rest loads."""
    program = "import sys, handler; print([m for m in sys.modules if m.startswith('handler.')])"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert said.stdout == "[]\n"
