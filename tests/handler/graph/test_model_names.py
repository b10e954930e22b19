"""What names tell of the folder behind an input."""

from __future__ import annotations

import pytest

from handler.graph.model_names import by_name, fits, folder_of_key
from handler.graph.object_info import InputSpec

NAMES = """
    checkpoints loras vae vae_approx text_encoders diffusion_models clip_vision style_models
    controlnet upscale_models model_patches audio_encoders unet_gguf test_models
"""
EMPTY = tuple(NAMES.split())


@pytest.mark.parametrize(
    ("class_type", "name", "folder"),
    [
        ("CheckpointLoaderSimple", "ckpt_name", "checkpoints"),
        ("LoraLoader", "lora_name", "loras"),
        ("LoraStack", "lora_name_2", "loras"),
        ("UNETLoader", "unet_name", "diffusion_models"),
        ("UnetLoaderGGUF", "unet_name", "unet_gguf"),
        ("DualCLIPLoader", "clip_name1", "text_encoders"),
        ("CLIPVisionLoader", "clip_name", "clip_vision"),
        ("UpscaleModelLoader", "model_name", "upscale_models"),
        ("ModelPatchLoader", "name", "model_patches"),
        ("AudioEncoderLoader", "audio_encoder_name", "audio_encoders"),
        ("DiffusionModelLoaderKJ", "model_name", "diffusion_models"),
        ("VAELoader", "vae_name", "vae"),
        ("TestLoader", "thing", "test_models"),
    ],
)
def test_names_decide_between_empty_folders(class_type, name, folder):
    """The input's name by a table, else the words of class, input and folder."""
    assert by_name(class_type, name, EMPTY) == (folder,)


def test_names_that_say_nothing_leave_all():
    """Whoever asks has to find out in another way."""
    assert by_name("Loader", "file", EMPTY) == EMPTY
    assert by_name("Loader", "file", ()) == ()


@pytest.mark.parametrize(
    ("name", "choices", "expected"),
    [
        ("vae_name", ("pixel_space",), True),
        ("my_lora", ("None",), True),
        ("my_lora", ("[None]",), True),
        ("lora_type", ("standard", "full_diff"), False),
        ("upscale", (2, 4), False),
    ],
)
def test_choices_that_are_no_files_are_few(name, choices, expected):
    """A kind or a method is no model file, whatever its input is called."""
    folder = {"v": "vae", "u": "upscale_models"}.get(name[0], "loras")

    assert fits(InputSpec(name, "COMBO", required=True, choices=choices), folder) is expected


def test_keys_of_nested_values_have_folders():
    """As nodes write them that take any number of LoRAs."""
    assert folder_of_key("lora") == folder_of_key("lora_02") == "loras"
    assert folder_of_key("strength") is None
