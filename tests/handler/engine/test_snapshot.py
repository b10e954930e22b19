"""What a ComfyUI is started with that is to be frozen."""

from __future__ import annotations

import pytest

from handler.engine.snapshot import FOLDER, SnapshotNode, differences, unfit
from handler.settings import Settings


def test_the_folder_holds_our_pack_alone():
    """ComfyUI loads whatever lies in it."""
    found = sorted(path.name for path in FOLDER.iterdir() if path.name != "__pycache__")
    assert found == ["comfyfn_snapshot"]


def test_gpus_are_hidden_from_the_first_moment_on():
    """Other packs' start scripts may run before ours."""
    node = SnapshotNode(hides_gpu=True)
    env = node.environment({"CUDA_VISIBLE_DEVICES": "0", "PATH": "/bin"})

    assert env == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        "COMFYFN_HIDE_GPU": "true",
        "COMFYFN_WAKE_TOKEN": node.token,
    }
    assert node.token not in repr(node)
    assert node.token != SnapshotNode(hides_gpu=True).token


def test_a_boot_with_the_gpu_keeps_the_environment():
    """Only the token is added."""
    node = SnapshotNode(hides_gpu=False, token="t")
    assert node.environment({"A": "1"}) == {"A": "1", "COMFYFN_WAKE_TOKEN": "t"}


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("comfyui", {}, None),
        ("embedded", {}, "embedded"),
        ("attached", {}, "attached"),
        ("comfyui", {"comfy_command": ("run",)}, "CMD"),
        ("comfyui", {"comfy_args": ("--disable-all-custom-nodes",)}, "disable-all"),
    ],
)
def test_not_every_engine_can_have_it(kind, settings, why):
    """Those boot after the snapshot, or without any node."""
    found = unfit(Settings(**settings), kind)
    assert (found is None) if why is None else (why in found)


def test_the_environment_of_a_launch_is_brought_up_to_date():
    """What is hidden is shown as it is said to be now."""
    launched = SnapshotNode(hides_gpu=True).environment({"A": "1", "B": "1", "C": "1"})
    now = {"A": "1", "B": "2", "D": "4", "CUDA_VISIBLE_DEVICES": "0"}

    assert differences(launched, now) == {
        "B": "2",
        "C": None,
        "D": "4",
        "CUDA_VISIBLE_DEVICES": "0",
        "PYTORCH_NVML_BASED_CUDA_CHECK": None,
    }
