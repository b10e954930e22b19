"""What runs inside ComfyUI: a GPU out of sight, and in sight again. torch is a stand-in here."""

from __future__ import annotations

import random
import sys
import types

import numpy as np
import pytest

from handler.engine.snapshot_node.comfyfn_snapshot import slumber
from handler.engine.snapshot_node.comfyfn_snapshot.slumber import (
    MANAGEMENT,
    OPERATIONS,
    Asleep,
    Slumber,
    wake,
)

OPERATIONS_SOURCE = """
import sys
seen = sys.modules["torch_here"].cuda.is_available()
def scaled_dot_product_attention():
    return "for a GPU" if seen else "for none"
"""


class Cuda:
    """As torch.cuda: once asked while there is no GPU in sight, it never finds one."""

    def __init__(self, environ):
        self.environ = environ
        self.asked = 0
        self.spoilt = False

    def _lazy_init(self):
        self.asked += 1
        self.spoilt = self.spoilt or self.environ.get("CUDA_VISIBLE_DEVICES") == ""
        if self.spoilt:
            raise RuntimeError("No CUDA GPUs are available")

    def is_available(self):
        try:
            self._lazy_init()
        except RuntimeError:
            return False
        return True

    def device_count(self):
        return int(self.is_available())

    def current_device(self):
        self._lazy_init()
        return 0

    def init(self):
        self._lazy_init()


class Device:
    def __init__(self, name):
        self.type = "cpu" if name == "cpu" else "cuda"


class Tensor:
    def add_(self, _number):
        return self

    def cpu(self):
        return self


class Torch(types.ModuleType):
    def __init__(self, environ):
        super().__init__("torch")
        self.cuda = Cuda(environ)
        self.seeds = 0
        self.tried = []

    def seed(self):
        self.seeds += 1

    def zeros(self, _size, device):
        self.tried.append(device.type)
        return Tensor()


class Management(types.ModuleType):
    """As ComfyUI's: looks for its device when it is loaded, and at each question."""

    CPUState = types.SimpleNamespace(GPU="gpu", CPU="cpu")
    VRAMState = types.SimpleNamespace(DISABLED="disabled")

    def __init__(self, torch):
        super().__init__(MANAGEMENT)
        self.torch = torch
        self.cpu_state = "gpu"
        self.vram_state = "normal"
        self.total_vram = self.get_total_memory(self.get_torch_device()) / (1 << 20)

    def get_torch_device(self):
        if self.cpu_state == "cpu":
            return Device("cpu")
        return Device(self.torch.cuda.current_device())

    def get_total_memory(self, device):
        return 80 << 30 if device.type == "cuda" else 16 << 30

    def get_torch_device_name(self, device):
        return f"{device.type}:0 NVIDIA H100 : cudaMallocAsync"


@pytest.fixture
def asleep(tmp_path):
    """Give what a ComfyUI has that booted with the GPU hidden."""
    environ = {"CUDA_VISIBLE_DEVICES": "", "KEPT": "1"}
    torch = Torch(environ)
    modules = {"torch": torch, "numpy": np}
    own = Slumber(modules)
    own.hides = True
    own.hide(torch.cuda)
    modules[MANAGEMENT] = Management(torch)
    source = tmp_path / "ops.py"
    source.write_text(OPERATIONS_SOURCE)
    operations = types.ModuleType(OPERATIONS)
    operations.__file__ = str(source)
    operations.scaled_dot_product_attention = lambda: "for none"
    modules[OPERATIONS] = operations
    sys.modules["torch_here"] = torch
    yield own, environ, modules
    del sys.modules["torch_here"]


def test_nothing_asks_cuda_while_it_is_hidden(asleep):
    """Else it would never find a GPU in this process."""
    _, _, modules = asleep
    torch, management = modules["torch"], modules[MANAGEMENT]

    assert management.get_torch_device().type == "cpu"
    assert management.cpu_state == "gpu"  # what else it decides, it decides for a GPU
    assert (torch.cuda.is_available(), torch.cuda.device_count()) == (False, 0)
    with pytest.raises(Asleep, match="before the snapshot"):
        torch.cuda._lazy_init()
    assert torch.cuda.asked == 0


def test_a_wake_shows_the_gpu_and_has_comfyui_choose_anew(asleep):
    """Device, memory, and how attention is computed."""
    own, environ, modules = asleep
    taken_along = modules["torch"].cuda.is_available

    told = wake(own, {"CUDA_VISIBLE_DEVICES": None, "NEW": "x", "KEPT": "2"}, environ, modules)

    assert told.pop("seconds") >= 0
    name = "cuda:0 NVIDIA H100 : cudaMallocAsync"
    assert told == {"device": "cuda", "name": name, "vram_total": 80 << 30, "hidden": True}
    assert environ == {"NEW": "x", "KEPT": "2"}
    management, torch = modules[MANAGEMENT], modules["torch"]
    assert (management.get_torch_device().type, management.total_vram) == ("cuda", 80 << 10)
    assert modules[OPERATIONS].scaled_dot_product_attention() == "for a GPU"
    assert torch.tried == ["cuda"]
    assert taken_along() is True
    assert torch.cuda.is_available.__func__ is Cuda.is_available


def test_a_wake_without_a_gpu_makes_it_comfyuis_cpu_mode(asleep):
    """Our server judges whether that will do."""
    own, environ, modules = asleep

    told = wake(own, {}, environ, modules)

    assert (told["device"], told["hidden"]) == ("cpu", True)
    management = modules[MANAGEMENT]
    assert (management.cpu_state, management.vram_state) == ("cpu", "disabled")
    assert management.get_torch_device().type == "cpu"


def test_a_second_wake_changes_nothing_but_the_randomness(asleep):
    """Whoever asks twice does no harm."""
    own, environ, modules = asleep
    wake(own, {"CUDA_VISIBLE_DEVICES": None}, environ, modules)
    asked = modules["torch"].cuda.asked

    again = wake(own, {}, environ, modules)

    assert (again["device"], again["hidden"]) == ("cuda", False)
    assert modules["torch"].seeds == 2
    assert modules["torch"].cuda.asked == asked + 1  # for the device


def test_a_gpu_that_was_chosen_by_an_argument_stays_chosen(asleep):
    """`--cuda-device` sets the variable after us."""
    own, environ, modules = asleep
    environ["CUDA_VISIBLE_DEVICES"] = "1"

    wake(own, {"CUDA_VISIBLE_DEVICES": None}, environ, modules)

    assert environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_operations_that_cannot_be_loaded_again_stay(asleep, caplog):
    """It is slower then, and said."""
    own, environ, modules = asleep
    operations = modules[OPERATIONS]
    before = operations.scaled_dot_product_attention
    with open(operations.__file__, "w") as file:
        file.write("raise ValueError('registered already')")

    told = wake(own, {"CUDA_VISIBLE_DEVICES": None}, environ, modules)

    assert told["device"] == "cuda"
    assert operations.scaled_dot_product_attention is before
    assert "registered already" in caplog.text


def test_two_copies_of_a_snapshot_have_randomness_of_their_own(asleep):
    """Python's, numpy's and torch's."""
    own, environ, modules = asleep
    drawn = []
    for _ in range(2):
        random.seed(7)
        np.random.seed(7)
        wake(own, {}, environ, modules)
        drawn.append((random.random(), float(np.random.random())))
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def test_torch_is_hidden_when_comfyui_is_about_to_look(tmp_path):
    """Not before: ComfyUI sets the environment for it."""
    environ = {"CUDA_VISIBLE_DEVICES": ""}
    torch = Torch(environ)
    own, before = Slumber(sys.modules), list(sys.meta_path)
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "__init__.py").write_text("")
    (tmp_path / "comfy" / "model_management.py").write_text(
        "import torch\ndevice = torch.cuda.current_device()\n"
    )
    assert not {"torch", "comfy"} & sys.modules.keys()
    sys.modules["torch"] = torch
    sys.path.insert(0, str(tmp_path))
    try:
        own.begin()
        assert torch.cuda.current_device.__func__ is Cuda.current_device
        import comfy.model_management as management

        assert management.device == "cpu"
        with pytest.raises(RuntimeError, match="before it could be hidden"):
            Slumber(sys.modules).begin()
    finally:
        sys.path.remove(str(tmp_path))
        for name in ("torch", "comfy", MANAGEMENT):
            sys.modules.pop(name, None)
    assert sys.meta_path == before
    assert torch.cuda.asked == 0


def test_comfyuis_process_has_one_of_it():
    """The start script and the route find the same."""
    assert isinstance(slumber.own, Slumber)
    assert not slumber.own.hides
