"""What graphs may call a manifest's models."""

from __future__ import annotations

from pathlib import Path

from handler.manifest.names import named_models
from handler.manifest.places import Places
from handler.manifest.schema import parse_manifest

HOME = Path("/comfy")
PLACES = Places(models=HOME / "models", home=HOME, roots=(Path("/volume"), Path("/volume/models")))
SHA256 = "a" * 64


def named(text, places=PLACES):
    return named_models(parse_manifest(text), places)


def test_the_catalogue_is_by_name():
    """With aliases, all URLs, size and hash."""
    text = f"""
catalogue:
  tiny: {{urls: [https://e.org/1, https://e.org/2], folder: vae, filename: t.bin, aliases: [t],
          sha256: {SHA256}, size: 3}}
"""
    one = named(text)["tiny"]
    assert one.names == ("tiny", "t")
    assert one.urls == ("https://e.org/1", "https://e.org/2")
    assert (one.folder, one.filename, one.sha256, one.size) == ("vae", "t.bin", SHA256, 3)


def test_models_are_by_folder_and_file():
    """One of the same name in two folders is two; a name and aliases count besides."""
    text = """
models:
  before_start:
    - {url: https://e.org/x.bin, folder: vae}
    - {url: https://e.org/x.bin, folder: loras, filename: sub/x.bin, name: ex, aliases: [ecks]}
  after_start:
    - {url: https://e.org/y.bin, local_path: models/clip/y.bin}
"""
    found = named(text)
    assert list(found) == ["vae/x.bin", "loras/sub/x.bin", "clip/y.bin"]
    assert found["loras/sub/x.bin"].names == ("ex", "ecks")
    assert found["clip/y.bin"].names == ("y.bin",)


def test_a_place_below_a_volume_is_in_the_folder_nearest_to_it():
    """`root/models/vae` is no folder called models."""
    text = """
models:
  before_start:
    - {url: https://e.org/x.bin, local_path: /volume/models/vae/x.bin}
    - {url: https://e.org/y.bin, local_path: /volume/loras/y.bin}
"""
    assert list(named(text)) == ["vae/x.bin", "loras/y.bin"]


def test_comfyuis_own_folder_counts_where_the_models_are_elsewhere():
    """MODEL_DIR is another; a `local_path` is below COMFY_HOME all the same."""
    text = "models: {after_start: [{url: https://e.org/x.bin, local_path: models/vae/x.bin}]}"
    assert list(named(text, Places(models=Path("/elsewhere"), home=HOME))) == ["vae/x.bin"]


def test_what_lies_in_no_model_folder_has_no_name():
    """A node pack's own file, one beside the folders, one whose place is not known."""
    text = """
models:
  before_start:
    - {url: https://e.org/x.bin, local_path: custom_nodes/pack/x.bin}
    - {url: https://e.org/x.bin, local_path: models/x.bin}
"""
    assert named(text) == {}
    text = "models: {before_start: [{url: https://e.org/x, local_path: models/vae/x}]}"
    assert named(text, None) == {}
