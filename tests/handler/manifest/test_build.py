"""Tools for an installation."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path

import pytest
from lone import site_in

from handler.manifest.build import make_start, make_tools
from handler.manifest.faults import InstallFailed
from handler.manifest.lock import Lock, LockedModel, lock_path, model_key, write_lock
from handler.manifest.places import Places
from handler.manifest.records import Manifest
from handler.manifest.registry import HttpRegistry
from handler.manifest.start import manifest_of, places_of
from handler.settings import SettingsError
from handler.transfer.download import Downloader
from handler.transfer.operator import operator_sources
from handler.transfer.threads import Threads


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


async def test_a_sites_manifest_is_carried_out_there(tmp_path):
    """Its models come by the downloader, into the site's folder, and their progress is told."""
    source = tmp_path / "a.bin"
    source.write_bytes(b"weights")
    text = f'{{"models": {{"before_start": [{{"url": "file://{source}", "folder": "vae"}}]}}}}'
    site, threads = site_in(tmp_path, MANIFEST_JSON=text), Threads()
    downloader = Downloader(operator_sources(site.settings, threads), threads=threads)
    try:
        start = make_start(manifest_of(site), site, downloader)
        start.begin()
        await start.before_warmup()
        (model,) = start.report()["models"]
    finally:
        await downloader.close()
        site.close()
    assert (tmp_path / "models" / "vae" / "a.bin").read_bytes() == b"weights"
    assert (model["state"], model["bytes"], model["error"]) == ("there", 7, None)


async def test_a_locked_manifest_keeps_to_its_lock(tmp_path):
    """Another file under the same URL is refused, and so is a lock of another text."""
    source, path = tmp_path / "a.bin", tmp_path / "m.yaml"
    source.write_bytes(b"weights")
    path.write_text(f"models:\n  before_start:\n    - {{url: 'file://{source}', folder: vae}}\n")
    site, threads = site_in(tmp_path, MANIFEST=str(path)), Threads()
    downloader = Downloader(operator_sources(site.settings, threads), threads=threads)
    manifest = manifest_of(site)
    locked = LockedModel(size=7, sha256=hashlib.sha256(b"weights").hexdigest())
    key = model_key(places_of(site).of(manifest.models[0]), places_of(site))
    write_lock(Lock(manifest=manifest.digest, models={key: locked}), lock_path(manifest))
    site.settings = dataclasses.replace(site.settings, manifest_locked=True)
    try:
        frozen = manifest_of(site)
        assert (frozen.models[0].size, frozen.models[0].sha256) == (7, locked.sha256)
        source.write_bytes(b"WEIGHTS")
        start = make_start(frozen, site, downloader)
        start.begin()
        with pytest.raises(InstallFailed, match="SHA-256"):
            await start.before_warmup()
        path.write_text(path.read_text() + "# another\n")
        with pytest.raises(SettingsError, match="another text"):
            manifest_of(site)
    finally:
        await downloader.close()
        site.close()
