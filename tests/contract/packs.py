"""A node pack for a real ComfyUI, with a model folder of its own, as the embedded engine has it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PACK = """
import hashlib
from pathlib import Path

import folder_paths
import torch

paths, _ = folder_paths.folder_names_and_paths["test_models"]
folder_paths.folder_names_and_paths["test_models"] = (paths, {".safetensors", ".pt"})


class TestPackLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"thing": (folder_paths.get_filename_list("test_models"),)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "load"
    CATEGORY = "test"

    def load(self, thing):
        content = Path(folder_paths.get_full_path_or_raise("test_models", thing)).read_bytes()
        color = torch.tensor(list(hashlib.sha256(content).digest()[:3])) / 255
        return (color.expand(1, 64, 64, 3).clone(),)


class Opener(TestPackLoader):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"thing": (folder_paths.get_filename_list("oddities"),)}}

    def load(self, thing):
        return (torch.zeros(1, 64, 64, 3),)


NODE_CLASS_MAPPINGS = {"TestPackLoader": TestPackLoader, "Opener": Opener}
"""


def install_pack(home: Path, models: Path) -> str:
    """Write the pack, and give arguments that have a real ComfyUI load it."""
    pack = home / "custom_nodes" / "test_pack"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text(PACK)
    config = home / "pack_paths.yaml"
    places = {name: str(models / name) for name in ("test_models", "oddities")}
    places["custom_nodes"] = str(pack.parent)
    config.write_text(json.dumps({"pack": places}))
    return f"--extra-model-paths-config {config}"
