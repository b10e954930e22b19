"""Tells what GPU ComfyUI will find. Run by ComfyUI's own interpreter: stdlib only, Python 3.9+.

torch is not imported (that takes seconds, and ComfyUI does it anyway): its CUDA version stands in
torch/version.py, and the driver answers through libcuda. Prints one JSON object.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import pathlib
import sys
from typing import Any


def torch_version() -> dict[str, Any] | None:
    """Version, CUDA and HIP version of the installed torch, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        return None
    names: dict[str, Any] = {}
    exec(pathlib.Path(spec.origin).with_name("version.py").read_text(), names)  # noqa: S102
    return {k: names.get(k) for k in ("__version__", "cuda", "hip")}


def gpus() -> dict[str, Any]:
    """Driver version and devices, or the reason why there are none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {"error": "no NVIDIA driver (libcuda.so.1) is visible"}
    status = cuda.cuInit(0)
    if status:
        return {"error": "the NVIDIA driver refuses to start (cuInit gives %d)" % status}
    number = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(number))
    found: dict[str, Any] = {
        "driver_cuda": [number.value // 1000, number.value % 1000 // 10],
        "devices": [],
    }
    cuda.cuDeviceGetCount(ctypes.byref(number))
    for index in range(number.value):
        device, name, size = ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_size_t()
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetName(name, 100, device)
        cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        found["devices"].append({"name": name.value.decode(), "vram_bytes": size.value})
    return found


def main() -> None:
    """Print what was found."""
    print(json.dumps({"python": sys.version.split()[0], "torch": torch_version(), "gpu": gpus()}))


if __name__ == "__main__":
    main()
