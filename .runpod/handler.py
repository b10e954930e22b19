"""The handler that RunPod's Hub looks for: the worker of this repository, as it is."""
# ruff: noqa: INP001 - a program, and no package's

import sys
from pathlib import Path

# A program's own folder is looked in first, and this file would be taken for our package `handler`.
OWN = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != OWN]

from adapters.runpod_worker import main  # noqa: E402 - not before that

if __name__ == "__main__":
    sys.exit(main())
