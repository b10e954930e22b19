"""A manifest from its text to a machine that has it all."""

from __future__ import annotations

import os
import time

import pytest
from sources.installation import WEIGHTS, Shop, needs_dpkg

from handler.manifest.faults import InstallFailed


@needs_dpkg
async def test_everything_is_installed_and_the_second_time_costs_nothing(site):
    """Packs, packages, scripts and files are there; a broken optional pack is a warning."""
    _, start = await site.install()
    outcomes = {record.name: record.outcome for record in start.timeline.records}

    assert outcomes.pop("pack broken") == "warned"
    assert outcomes.pop("install.py broken") == "skipped"
    assert set(outcomes.values()) == {"done"}
    nodes = site.home / "custom_nodes"
    assert sorted(os.listdir(nodes)) == ["alpha", "beta", "nice"]
    assert (nodes / "beta" / "x").read_text() == "2"
    ran = (nodes / "alpha" / "ran.log").read_text()
    assert ran.startswith(f"{site.python}|")
    assert (site.home / "models" / "vae" / "a.bin").read_bytes().startswith(WEIGHTS)
    assert (site.home / "models" / "loras" / "b.bin").exists()

    (nodes / "alpha" / "ran.log").unlink()
    begun = time.monotonic()
    _, start = await site.install()
    notes = {record.name: record.note for record in start.timeline.records}
    assert notes["pip"] == "all there"
    assert not (nodes / "alpha" / "ran.log").exists()
    assert time.monotonic() - begun < 5


@needs_dpkg
async def test_downloads_overlap_the_installation(site):
    """The whole takes as long as the longer of both, and the chart shows it."""
    _, start = await site.install(shop=Shop(seconds=0.6))
    records = {record.name: record for record in start.timeline.records}

    assert records["model a.bin"].start < records["apt"].end
    assert records["model a.bin"].start < records["pip"].start < records["after start: b.bin"].start
    assert "model a.bin" in start.timeline.chart()


async def test_a_pack_that_would_replace_torch_stops_the_start_by_name(site):
    """Before anything is installed."""
    site.alpha.commit({"requirements.txt": "torch==2.1.0\n"})
    text = "custom_nodes: [https://github.com/o/alpha]\n"
    with pytest.raises(InstallFailed, match=r"node pack alpha: requirements.txt:1 .*torch") as got:
        await site.install(text)
    assert got.value.details[0]["step"] == "pip"


async def test_a_script_that_replaces_torch_is_named(site):
    """What the resolver kept, an install.py may not undo unseen."""
    script = (
        "import pathlib, shutil, sysconfig\n"
        "site = pathlib.Path(sysconfig.get_path('purelib'))\n"
        "shutil.rmtree(next(site.glob('torch-*.dist-info')))\n"
    )
    site.alpha.commit({"install.py": script, "requirements.txt": ""})
    with pytest.raises(InstallFailed, match=r"install.py of alpha replaced torch .* by nothing"):
        await site.install("custom_nodes: [https://github.com/o/alpha]\n")


async def test_a_file_outside_of_every_root_is_refused(site):
    """An absolute place must lie in ComfyUI's folder or a model root."""
    text = "models:\n  before_start:\n    - {url: https://e.org/a, local_path: /etc/a.bin}\n"
    with pytest.raises(InstallFailed, match="outside of COMFY_HOME"):
        await site.install(text)


async def test_a_requirements_file_that_is_not_there_is_named(site):
    """By its path, not by an exception."""
    with pytest.raises(InstallFailed, match=r"pip of .*m.*: .*no-such\.txt: No such file"):
        await site.install("pip: [-r no-such.txt]\n")
