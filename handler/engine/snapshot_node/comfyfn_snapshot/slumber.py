"""Keeps the GPU out of sight while ComfyUI boots, and shows it when it is told to.

A memory snapshot may be taken on a machine without a GPU, and CUDA, once it has found none, finds
none for as long as the process lives. So until `wake` nothing gets as far as asking it: torch.cuda
says that there is no device, and its current one is called "cpu", which is what ComfyUI computes
on until then. ComfyUI's other decisions, such as its attention, are those for the torch that it
has. Nothing of ComfyUI is replaced but what it would have decided otherwise with the GPU in sight.

This runs in ComfyUI's interpreter, with the standard library and what is loaded there.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import logging
import random
import sys
import time
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

log = logging.getLogger("comfyfn.snapshot")
VISIBLE = "CUDA_VISIBLE_DEVICES"
MANAGEMENT, OPERATIONS = "comfy.model_management", "comfy.ops"


class Asleep(RuntimeError):
    """Something wants to compute on the GPU before it may be touched."""


class Slumber:
    """Whether the GPU may be touched.

    Args:
        modules: those that are loaded; `sys.modules`.

    Attributes:
        hides: whether the GPU is out of sight now.
    """

    def __init__(self, modules: Mapping[str, Any]) -> None:
        self._modules = modules
        self._kept: dict[str, Any] = {}
        self._cuda: Any = None
        self.hides = False

    def begin(self) -> None:
        """Hide the GPU from now on; torch's part of it as soon as ComfyUI wants to know.

        Raises:
            RuntimeError: ComfyUI has decided on its device already.
        """
        if MANAGEMENT in self._modules:
            raise RuntimeError("ComfyUI has looked for a GPU before it could be hidden")
        self.hides = True
        sys.meta_path.insert(0, _Before(self))

    def hide(self, cuda: Any) -> None:
        """Put stand-ins in the place of what would ask CUDA.

        Args:
            cuda: `torch.cuda`.
        """
        if self._kept:
            return

        def refuse() -> None:
            raise Asleep("there is no GPU before the snapshot is restored")

        stand_ins: dict[str, Callable[[], Any]] = {
            "is_available": lambda: False,
            "device_count": lambda: 0,
            "current_device": lambda: "cpu",
            "_lazy_init": refuse,
        }
        self._cuda = cuda
        for name, stand_in in stand_ins.items():
            if hasattr(cuda, name):
                self._kept[name] = getattr(cuda, name)
                setattr(cuda, name, self._either(stand_in, self._kept[name]))

    def _either(self, stand_in: Callable[[], Any], own: Any) -> Callable[..., Any]:
        """Whoever has taken a stand-in along gets torch's own answer when the GPU is there."""

        @wraps(own)
        def answer(*given: Any, **named: Any) -> Any:
            return stand_in() if self.hides else own(*given, **named)

        return answer

    def end(self) -> None:
        """Put torch's own back; again is fine."""
        self.hides = False
        kept, self._kept = self._kept, {}
        for name, own in kept.items():
            setattr(self._cuda, name, own)


own = Slumber(sys.modules)
"""ComfyUI's process has one."""


class _Before(importlib.abc.MetaPathFinder):
    """Has torch's part hidden right before ComfyUI loads what looks for devices.

    Not earlier: what ComfyUI sets in the environment must be there before torch is loaded.
    """

    def __init__(self, slumber: Slumber) -> None:
        self._slumber = slumber

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> None:
        """Find nothing: who comes next does."""
        if name == MANAGEMENT and self in sys.meta_path:
            sys.meta_path.remove(self)
            self._slumber.hide(importlib.import_module("torch").cuda)


def wake(
    slumber: Slumber,
    environment: Mapping[str, str | None],
    environ: MutableMapping[str, str],
    modules: Mapping[str, Any],
) -> dict[str, Any]:
    """Show the GPU, have ComfyUI choose its device anew, and forget what copies must not share.

    Args:
        environment: what differs from the environment of the boot; None where it is gone.
        environ: the process's own.

    Returns:
        `device` (`cuda`, `cpu`, ...), `name`, `vram_total` in bytes, `hidden` before, `seconds`.
    """
    begun, hidden = time.monotonic(), slumber.hides
    _set(environment, environ)
    management = modules.get(MANAGEMENT)
    slumber.end()
    if hidden and management is not None:
        _choose_anew(modules["torch"], management, modules.get(OPERATIONS))
    reseed(modules)
    told = {"device": "cpu", "name": "", "vram_total": 0}
    if management is not None:
        told = _device(modules["torch"], management)
    return {**told, "hidden": hidden, "seconds": round(time.monotonic() - begun, 3)}


def reseed(modules: Mapping[str, Any]) -> None:
    """Begin with new randomness: a snapshot that is restored twice has it twice."""
    random.seed()
    if "numpy" in modules:
        modules["numpy"].random.seed()
    torch = modules.get("torch")
    if torch is not None:
        torch.seed()


def _set(environment: Mapping[str, str | None], environ: MutableMapping[str, str]) -> None:
    for name, text in environment.items():
        if name == VISIBLE and environ.get(VISIBLE):
            continue  # `--cuda-device` has chosen
        if text is None:
            environ.pop(name, None)
        else:
            environ[name] = text


def _choose_anew(torch: Any, management: Any, operations: Any) -> None:
    if not torch.cuda.is_available():
        # What `--cpu` sets: else every look-up of the device would ask for a GPU.
        management.cpu_state = management.CPUState.CPU
        management.vram_state = management.VRAMState.DISABLED
        return
    torch.cuda.init()
    total = management.get_total_memory(management.get_torch_device())
    management.total_vram = total / (1 << 20)
    if operations is not None:
        _decide_anew(operations)


def _decide_anew(operations: Any) -> None:
    """Have ComfyUI's operations loaded beside, and take how they compute attention on a GPU."""
    name = "scaled_dot_product_attention"
    try:
        spec = importlib.util.spec_from_file_location("comfyfn_operations", operations.__file__)
        assert spec is not None
        assert spec.loader is not None
        again = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(again)
        setattr(operations, name, getattr(again, name))
    except Exception as fault:  # noqa: BLE001 - it is slower without, and not wrong
        log.warning("attention stays as it was chosen without a GPU: %s", fault)


def _device(torch: Any, management: Any) -> dict[str, Any]:
    """Tell what ComfyUI computes on now; a GPU is tried with one number."""
    device = management.get_torch_device()
    kind = str(getattr(device, "type", device))
    if kind == "cpu":
        return {"device": kind, "name": "", "vram_total": 0}
    torch.zeros(1, device=device).add_(1).cpu()
    name = str(management.get_torch_device_name(device))
    return {"device": kind, "name": name, "vram_total": int(management.get_total_memory(device))}
