"""The command line as a user has it: a process, its two streams and its status."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from live import REPO, free_port

if TYPE_CHECKING:
    from pathlib import Path


def comfyfn(
    *arguments: object, home: Path, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a verb in an environment of its own."""
    given = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(REPO),
        "LOG_FORMAT": "text",
        "COMFYUI_PORT_HOST": str(free_port()),
        "PORT": str(free_port()),
        **{k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")},
        **env,
    }
    return subprocess.run(
        [sys.executable, "-m", "local_server.cli", *map(str, arguments)],
        cwd=cwd or REPO,
        env=given,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
