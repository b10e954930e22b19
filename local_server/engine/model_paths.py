"""Which folders are searched for models: ComfyUI's own, and those of extra-model-paths files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MODEL_SUFFIXES = frozenset({".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"})
ANY_SUFFIX: frozenset[str] = frozenset()

# Folder name -> (folders below models/, suffixes listed), in ComfyUI's order.
MODEL_FOLDERS: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "checkpoints": (("checkpoints",), MODEL_SUFFIXES),
    "configs": (("configs",), frozenset({".yaml"})),
    "loras": (("loras",), MODEL_SUFFIXES),
    "vae": (("vae",), MODEL_SUFFIXES),
    "text_encoders": (("text_encoders", "clip"), MODEL_SUFFIXES),
    "diffusion_models": (("unet", "diffusion_models"), MODEL_SUFFIXES),
    "clip_vision": (("clip_vision",), MODEL_SUFFIXES),
    "style_models": (("style_models",), MODEL_SUFFIXES),
    "embeddings": (("embeddings",), MODEL_SUFFIXES),
    "diffusers": (("diffusers",), frozenset({"folder"})),
    "vae_approx": (("vae_approx",), MODEL_SUFFIXES),
    "controlnet": (("controlnet", "t2i_adapter"), MODEL_SUFFIXES),
    "gligen": (("gligen",), MODEL_SUFFIXES),
    "upscale_models": (("upscale_models",), MODEL_SUFFIXES),
    "custom_nodes": (("../custom_nodes",), ANY_SUFFIX),
    "hypernetworks": (("hypernetworks",), MODEL_SUFFIXES),
    "photomaker": (("photomaker",), MODEL_SUFFIXES),
    "classifiers": (("classifiers",), frozenset({""})),
    "model_patches": (("model_patches",), MODEL_SUFFIXES),
    "audio_encoders": (("audio_encoders",), MODEL_SUFFIXES),
}
TEST_FOLDER = "test_models"
"""Of a node pack that exists for tests only."""

_LEGACY = {"unet": "diffusion_models", "clip": "text_encoders"}


@dataclass(frozen=True, slots=True)
class Searched:
    """The folders of one name.

    Attributes:
        folders: absolute, in the order in which they are searched.
        suffixes: of files that are listed, lower case; empty for any.
    """

    folders: tuple[Path, ...]
    suffixes: frozenset[str]


@dataclass(frozen=True, slots=True)
class ExtraPath:
    """One more folder.

    Attributes:
        name: the model folder's, as `checkpoints`, maybe a new one.
        first: it is searched before all others.
    """

    name: str
    path: Path
    first: bool = False


def registry(
    models: Path, extra: Iterable[ExtraPath] = (), *, test_faults: bool = False
) -> dict[str, Searched]:
    """Give all names with their folders.

    Args:
        models: the models folder.
        test_faults: add the folder of the pack for tests.
    """
    found = {
        name: Searched(tuple((models / place).absolute() for place in places), suffixes)
        for name, (places, suffixes) in MODEL_FOLDERS.items()
    }
    if test_faults:
        found[TEST_FOLDER] = Searched(((models / TEST_FOLDER).absolute(),), MODEL_SUFFIXES)
    for one in extra:
        name = _LEGACY.get(one.name, one.name)
        known = found.get(name, Searched((), ANY_SUFFIX))
        if one.first:
            folders = (one.path, *(path for path in known.folders if path != one.path))
        else:
            folders = tuple(dict.fromkeys((*known.folders, one.path)))
        found[name] = Searched(folders, known.suffixes)
    return found


def read_extra_paths(config: Path) -> list[ExtraPath]:
    """Read an extra-model-paths file.

    Sections hold `base_path`, `is_default`, and names with one folder a line.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    import yaml  # only who has such a file waits for it

    try:
        sections = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
        return [
            one
            for section in sections.values()
            if section is not None
            for one in _section(section, config.absolute().parent)
        ]
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise ValueError(f"{config} is no file of extra model paths: {error}") from error


def _section(section: dict[str, Any], beside: Path) -> list[ExtraPath]:
    entries = dict(section)
    base = entries.pop("base_path", None)
    first = bool(entries.pop("is_default", False))
    # A relative folder counts from the base, or from the file.
    root = beside / os.path.expandvars(os.path.expanduser(base)) if base else beside  # noqa: PTH111
    return [
        ExtraPath(name, root.__class__(os.path.normpath(root / line)), first)
        for name, lines in entries.items()
        for line in lines.split("\n")
        if line
    ]
