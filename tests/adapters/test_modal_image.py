"""The image's steps; tests/platforms/test_modal_deploy.py has them as Modal is asked for them."""

from __future__ import annotations

import re
import subprocess

import pytest

from adapters.modal_image import _comfyui, _pin, requirements
from adapters.modal_knobs import HOME, Knobs
from handler.manifest.comfyui import REPOSITORY
from handler.manifest.records import ComfyUIPin, Manifest
from handler.settings import SettingsError


def git(folder, *words):
    command = ["git", "-C", folder, "-c", "user.name=t", "-c", "user.email=t@t", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Give a repository with three commits, the second one tagged."""
    folder = tmp_path_factory.mktemp("ComfyUI")
    git(folder, "init", "-q")
    for text in ("1", "2", "3"):
        (folder / "main.py").write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "-qm", text)
        if text == "2":
            git(folder, "tag", "v0.3.64")
    return folder


@pytest.mark.parametrize("kind", ["version", "commit", "short"])
def test_the_steps_bring_comfyui_to_its_pin(repository, tmp_path, kind):
    """By tag, by commit, and by the beginning of one; the shell that Modal uses runs them."""
    commit = git(repository, "rev-parse", "HEAD~2")
    pins = {
        "version": ComfyUIPin(version="0.3.64"),
        "commit": ComfyUIPin(commit=commit),
        "short": ComfyUIPin(commit=commit[:8]),
    }
    home = tmp_path / "ComfyUI"
    for step in _comfyui(pins[kind]):
        if step.startswith("uv "):
            continue
        here = step.replace(REPOSITORY, f"file://{repository}").replace(HOME, str(home))
        subprocess.run(["/bin/sh", "-c", here], check=True, capture_output=True)
    assert (home / "main.py").read_text() == ("2" if kind == "version" else "1")


def test_the_manifest_says_which_comfyui_unless_a_knob_does():
    """Both may, if they mean the same."""
    manifest = Manifest(comfyui=ComfyUIPin(version="0.3.60"))
    assert _pin(Knobs(), None) == ComfyUIPin(version="0.3.64")
    assert _pin(Knobs(), manifest) == manifest.comfyui
    assert _pin(Knobs(comfyui="v0.3.60"), manifest) == manifest.comfyui
    assert _pin(Knobs(comfyui="0123abcd"), None) == ComfyUIPin(commit="0123abcd")
    with pytest.raises(SettingsError, match="in one place"):
        _pin(Knobs(comfyui="0.3.61"), manifest)


def test_the_requirements_are_those_of_the_project():
    """Names with their bounds, nothing of other platforms."""
    found = requirements()
    names = {re.split(r"[<>=!~]", one)[0] for one in found}
    assert {"starlette", "orjson", "boto3", "uvloop", "azure-storage-blob", "google-auth"} <= names
    assert not {"runpod", "modal", "pytest"} & names
    assert all(";" not in one for one in found)
