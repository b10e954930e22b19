"""Where files go, and where they may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.manifest.faults import InstallFailed, ManifestInvalid
from handler.manifest.places import Places, check_folder, check_local_path
from handler.manifest.records import ModelFile
from handler.manifest.schema import parse_manifest

HOME = Path("/srv/ComfyUI")
PLACES = Places(models=HOME / "models", home=HOME, roots=(Path("/volume"),))


def model(local_path=None, **fields):
    return ModelFile(urls=("https://e.org/a.bin",), local_path=local_path, **fields)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("models/vae/a.bin", "/srv/ComfyUI/models/vae/a.bin"),
        ("custom_nodes/p/a.bin", "/srv/ComfyUI/custom_nodes/p/a.bin"),
        ("/volume/models/a.bin", "/volume/models/a.bin"),
    ],
)
def test_paths_are_below_comfyui_or_a_root(given, path):
    """Relative ones are meant from COMFY_HOME."""
    assert PLACES.of(model(given)) == Path(path)


@pytest.mark.parametrize("given", ["/etc/a.bin", "/volume", "/volume/../etc/a.bin"])
def test_paths_outside_are_refused(given):
    """The message lists what is allowed."""
    with pytest.raises(InstallFailed, match="outside") as caught:
        PLACES.of(model(given))
    assert "/volume" in caught.value.hint


def test_all_that_lie_outside_are_told_with_their_lines():
    """At once, as every other fault of a manifest."""
    text = """
models:
  before_start:
    - {url: https://e.org/a.bin, local_path: /etc/a.bin}
    - {url: https://e.org/b.bin, folder: vae}
  after_start:
    - {url: https://e.org/c.bin, local_path: /etc/c.bin}
"""
    with pytest.raises(ManifestInvalid) as caught:
        PLACES.check(parse_manifest(text))
    assert [fault.line for fault in caught.value.faults] == [4, 7]
    assert "allowed: /srv/ComfyUI" in caught.value.message


def test_folders_are_those_of_the_models():
    """Wherever these are."""
    places = Places(models=Path("/m"))
    assert places.of(model(folder="vae", filename="sub/a.bin")) == Path("/m/vae/sub/a.bin")


def test_without_a_comfyui_there_is_nothing_to_install_into():
    """The hint names the setting."""
    with pytest.raises(InstallFailed, match="COMFY_HOME"):
        _ = Places(models=Path("/m")).custom_nodes


@pytest.mark.parametrize("text", ["../x", "a/../../x", "~/x", "a\\b"])
def test_texts_that_lead_out_are_refused(text):
    """Both kinds of places."""
    for check in (check_local_path, check_folder):
        with pytest.raises(ValueError, match="must be"):
            check(text)
