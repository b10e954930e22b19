"""What graphs may call the operator's models."""

from __future__ import annotations

from handler.models.catalogue import Catalogue
from handler.models.records import Named

SDXL = Named(names=("sdxl", "xl"), urls=("u",), folder="checkpoints", filename="sd_xl.safetensors")
LORA = Named(names=("sdxl",), urls=("u",), folder="loras", filename="lora.safetensors")
UNET = Named(names=("flux",), urls=("u",), folder="unet", filename="flux.safetensors")


def test_a_model_is_found_by_name_alias_and_file_name():
    """All of them are known."""
    catalogue = Catalogue([SDXL, UNET, SDXL])

    assert set(catalogue.names) == {"sdxl", "xl", "sd_xl.safetensors", "flux", "flux.safetensors"}
    for name in ("sdxl", "xl", "sd_xl.safetensors"):
        assert catalogue.find(name, ["checkpoints"]) is SDXL
    assert catalogue.find("nope", ["checkpoints"]) is None
    assert repr(catalogue) == "<Catalogue 5 names>"


def test_a_name_means_the_model_of_the_folder_that_is_asked_for():
    """One name may stand for a checkpoint and its LoRA; older names of folders count."""
    catalogue = Catalogue([SDXL, LORA, UNET])

    assert catalogue.find("sdxl", ["loras"]) is LORA
    assert catalogue.find("sdxl", ["vae"]) is SDXL
    assert catalogue.names_in(["diffusion_models"]) == ["flux", "flux.safetensors"]
    assert catalogue.names_in(["loras"]) == ["sdxl", "lora.safetensors"]
