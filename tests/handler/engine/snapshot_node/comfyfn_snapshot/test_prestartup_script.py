"""The script that ComfyUI runs first, in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from handler.engine.snapshot import FOLDER

SCRIPT = FOLDER / "comfyfn_snapshot" / "prestartup_script.py"
PROGRAM = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("any", {str(SCRIPT)!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(sys.modules["comfyfn_slumber"].own.hides)
"""


@pytest.mark.parametrize(("env", "hides"), [({"COMFYFN_HIDE_GPU": "true"}, "True"), ({}, "False")])
def test_the_environment_says_whether_gpus_are_hidden(env, hides):
    """And it needs the standard library only: ComfyUI's interpreter has not ours."""
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROGRAM], env=env, capture_output=True, text=True
    )
    assert (said.stdout.strip(), said.stderr) == (hides, "")
