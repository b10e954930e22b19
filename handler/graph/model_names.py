"""What names tell of the model folder behind an input: for folders whose lists are empty."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from handler.graph.object_info import InputSpec

# Input name without its number -> folder.
_OF_INPUT = {
    "ckpt": "checkpoints",
    "ckpt_name": "checkpoints",
    "checkpoint": "checkpoints",
    "checkpoint_name": "checkpoints",
    "lora": "loras",
    "lora_name": "loras",
    "vae": "vae",
    "vae_name": "vae",
    "control_net": "controlnet",
    "control_net_name": "controlnet",
    "controlnet": "controlnet",
    "controlnet_name": "controlnet",
    "unet": "diffusion_models",
    "unet_name": "diffusion_models",
    "diffusion_model": "diffusion_models",
    "clip_name": "text_encoders",
    "text_encoder": "text_encoders",
    "text_encoder_name": "text_encoders",
    "clip_vision": "clip_vision",
    "clip_vision_name": "clip_vision",
    "style_model_name": "style_models",
    "gligen_name": "gligen",
    "hypernetwork_name": "hypernetworks",
    "photomaker_model_name": "photomaker",
    "audio_encoder_name": "audio_encoders",
    "config_name": "configs",
    "upscale_model": "upscale_models",
    "upscale_model_name": "upscale_models",
    "embedding": "embeddings",
    "embedding_name": "embeddings",
}

# Classes whose input's name says too little.
_OF_CLASS = {
    ("CLIPVisionLoader", "clip_name"): "clip_vision",
    ("UpscaleModelLoader", "model_name"): "upscale_models",
    ("ModelPatchLoader", "name"): "model_patches",
    ("DiffusersLoader", "model_path"): "diffusers",
}

# Words in names that say nothing of what is loaded.
_EMPTY_WORDS = frozenset({"model", "name", "loader", "load", "file", "path", "only", "simple"})
# Choices beside files.
_NOTHING = frozenset({"", "none", "[none]", "disabled", "auto", "default", "baked vae"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_NUMBER = re.compile(r"_?\d+$")
_CERTAIN, _TABLE = 2, 1.5


def by_name(class_type: str, input_name: str, folders: Iterable[str]) -> tuple[str, ...]:
    """Give the folders that the names of class and input speak for most; all, where for none.

    More than one where names do not decide.
    """
    candidates = tuple(folders)
    scores = [_score(class_type, input_name, folder) for folder in candidates]
    best = max(scores, default=0)
    return tuple(name for name, score in zip(candidates, scores, strict=True) if score == best)


def fits(declared: InputSpec, folder: str) -> bool:
    """Tell whether an input with choices that are no files speaks for an empty folder."""
    if folder_of_key(declared.name) == folder:
        return True
    nothing = all(isinstance(c, str) and c.lower() in _NOTHING for c in declared.choices or ())
    return nothing and _score("", declared.name, folder) > 0


def folder_of_key(key: str) -> str | None:
    """Give the folder of a key or input name, `lora` or `lora_name_2`; None for other names."""
    return _OF_INPUT.get(_NUMBER.sub("", key.lower()))


def _score(class_type: str, input_name: str, folder: str) -> float:
    if (class_type, input_name) in _OF_CLASS:
        return _CERTAIN + 1 if _OF_CLASS[class_type, input_name] == folder else 0
    said = _words(class_type) | _words(input_name)
    words = _words(folder)
    telling = words - _EMPTY_WORDS
    matched = len(words & said) if telling and telling <= said else 0
    if folder_of_key(input_name) == folder:
        return max(_TABLE, float(matched))
    return min(matched, _CERTAIN)


def _words(name: str) -> set[str]:
    """Give the words of a name, `CLIPVisionLoader` or `clip_vision`, each without its plural."""
    return {_singular(word.lower()) for word in _WORD.findall(name)}


def _singular(word: str) -> str:
    if word.endswith(("ches", "shes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
