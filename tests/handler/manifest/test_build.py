"""Tools for an installation."""

from __future__ import annotations

import sys
from pathlib import Path

from handler.manifest.build import make_tools
from handler.manifest.places import Places
from handler.manifest.records import Manifest
from handler.manifest.registry import HttpRegistry


async def nothing(model, path):
    return "there"


def made(manifest, tmp_path, **options):
    places = Places(models=tmp_path)
    return make_tools(manifest, places, Path(sys.executable), {}, tmp_path, nothing, **options)


def test_relative_requirements_are_meant_from_the_manifests_folder(tmp_path):
    """Else from where we are: a manifest of the environment has no folder."""
    assert made(Manifest(path=tmp_path / "m.yaml"), tmp_path).base == tmp_path
    assert made(Manifest(), tmp_path).base == Path.cwd()


def test_the_real_parts_are_the_default(tmp_path, registry):
    """ComfyUI's registry, unless another is given; repositories of this machine on request."""
    tools = made(Manifest(), tmp_path)
    assert isinstance(tools.registry, HttpRegistry)
    assert (tools.allow_local, tools.download) == (False, nothing)
    tools = made(Manifest(), tmp_path, registry=registry, allow_local=True)
    assert (tools.registry, tools.allow_local) == (registry, True)
