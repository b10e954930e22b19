"""ComfyUI runs this before it decides on its device; the environment says whether to hide GPUs."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

NAME = "comfyfn_slumber"

# By its path: here we are no package, and `__init__` is to find the same.
_spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("slumber.py"))
assert _spec is not None
assert _spec.loader is not None
_slumber = importlib.util.module_from_spec(_spec)
sys.modules[NAME] = _slumber
_spec.loader.exec_module(_slumber)
if os.environ.get("COMFYFN_HIDE_GPU") == "true":
    _slumber.own.begin()
