"""The probe that ComfyUI's interpreter runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from handler.engine import probe_gpu

PROBE = Path(probe_gpu.__file__)

# A driver in C, for machines without one: as many entry points as the probe uses.
DRIVER = r"""
#include <string.h>
int cuInit(unsigned flags) { return STATUS; }
int cuDriverGetVersion(int *v) { *v = 12080; return 0; }
int cuDeviceGetCount(int *n) { *n = 2; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strcpy(s, d ? "second" : "first"); return 0; }
int cuDeviceTotalMem_v2(size_t *b, int d) { *b = 1024; return 0; }
"""


def asked(*path, libraries=""):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    env["LD_LIBRARY_PATH"] = str(libraries)
    done = subprocess.run(
        [sys.executable, PROBE], env=env, capture_output=True, check=True, timeout=30
    )
    return json.loads(done.stdout)


@pytest.fixture
def driver(tmp_path):
    """Build libcuda.so.1 with a given answer to cuInit; its folder."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")

    def build(status):
        source = tmp_path / "cuda.c"
        source.write_text(DRIVER)
        command = [compiler, "-shared", "-fPIC", f"-DSTATUS={status}", "-o"]
        subprocess.run([*command, tmp_path / "libcuda.so.1", source], check=True)
        return tmp_path

    return build


def test_torch_is_read_and_not_imported(tmp_path):
    """Importing it would take seconds, which ComfyUI needs again."""
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "version.py").write_text("__version__ = '2.6'\ncuda = '12.4'\nhip = None\n")

    found = asked(tmp_path)
    assert found["torch"] == {"__version__": "2.6", "cuda": "12.4", "hip": None}
    assert found["python"] == sys.version.split()[0]


def test_devices_and_driver_are_told(driver):
    """Name and memory of each, and the CUDA version that the driver has."""
    assert asked(libraries=driver(0))["gpu"] == {
        "driver_cuda": [12, 8],
        "devices": [
            {"name": "first", "vram_bytes": 1024},
            {"name": "second", "vram_bytes": 1024},
        ],
    }


def test_a_driver_that_refuses_is_told_with_its_number(driver):
    """The number says which fault of the driver it is."""
    assert "cuInit gives 803" in asked(libraries=driver(803))["gpu"]["error"]


def test_no_torch_is_none():
    """An environment without torch is the answer, not an error."""
    assert probe_gpu.torch_version() is None or probe_gpu.torch_version()["__version__"]


def test_it_prints_one_json_object(capsys):
    """Whatever this machine has."""
    probe_gpu.main()

    assert set(json.loads(capsys.readouterr().out)) == {"python", "torch", "gpu"}
