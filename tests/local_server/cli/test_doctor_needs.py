"""What the doctor tells of the manifest."""

from __future__ import annotations

import importlib.util
import json
import stat

import pytest

from handler.engine.free_memory import usable_memory
from handler.settings import Settings
from local_server.cli.doctor_needs import EXTRAS, need_findings

CANARY = "canary4711"


def told(kind="embedded", **env):
    """Topic -> level and texts."""
    found = {}
    for finding in need_findings(Settings.from_env(env), kind):
        found.setdefault(finding.topic, []).append((finding.level, finding.text))
    return found


def manifest(**keys):
    return {"MANIFEST_JSON": json.dumps(keys)}


def test_without_a_manifest_only_the_extras_are_told():
    """Which of them are installed here."""
    ((level, text),) = told()["extras"]
    assert level == "ok"
    here = [name for name, module in EXTRAS.items() if importlib.util.find_spec(module)]
    assert text == f"installed: {', '.join(here) or 'none'}"


def test_a_manifest_is_told_in_short():
    """How many things of each kind it names."""
    url = "https://e.org/m.safetensors"
    found = told(**manifest(pip=["six"], models={"before_start": [{"url": url, "folder": "vae"}]}))
    assert found["manifest"] == [("ok", "MANIFEST_JSON: 1 Python package, 1 model")]


def test_every_fault_of_a_manifest_is_bad_and_has_its_line(tmp_path):
    """All at once."""
    path = tmp_path / "m.yaml"
    path.write_text("pip: 5\nnonsense: 1\n")
    found = told(MANIFEST=str(path))["manifest"]
    assert {level for level, _ in found} == {"bad"}
    texts = [text for _, text in found]
    assert len(texts) == 2
    assert texts[0].startswith(f"{path}: line 1, ")
    assert texts[1].startswith(f"{path}: line 2, ")


def test_a_manifest_that_is_not_there_is_bad():
    """`serve` would not start."""
    assert told(MANIFEST="/nowhere/m.yaml")["manifest"][0][0] == "bad"


@pytest.mark.parametrize(("share", "level"), [(0.5, "ok"), (4, "warn")])
def test_memory_is_held_against_what_is_required(share, level):
    """A little less than the round number will do."""
    wanted = max(1, round(usable_memory() / (1 << 30) * share))
    (found,) = told(**manifest(requires={"ram_gb": wanted}))["requires"]
    assert found[0] == level
    assert found[1].startswith(f"{wanted:g} GB of RAM; this machine has ")


@pytest.mark.parametrize(("vram", "level"), [(24, "ok"), (16, "ok"), (48, "warn")])
def test_the_gpus_memory_is_held_against_what_is_required(tmp_path, vram, level):
    """A card of 24 GB shows a little less than 24 GiB."""
    shown = {
        "torch": {"__version__": "2.6.0", "cuda": "12.4", "hip": None},
        "gpu": {
            "driver_cuda": [12, 4],
            "devices": [{"name": "a GPU", "vram_bytes": 24564 << 20}],
        },
    }
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(shown)}\nEND\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    env = {**manifest(requires={"vram_gb": vram}), "COMFY_PYTHON": str(python)}
    assert told("comfyui", **env)["requires"] == [(level, f"{vram} GB of VRAM; a GPU has 24.0 GiB")]


def test_a_gpu_that_cannot_be_asked_is_told():
    """It is only a warning here: the GPU has a line of its own."""
    env = {**manifest(requires={"vram_gb": 8}), "COMFY_PYTHON": "/nowhere/python"}
    ((level, text),) = told("comfyui", **env)["requires"]
    assert level == "warn"
    assert text.startswith("8 GB of VRAM; ")


def test_what_is_set_or_named_needs_its_library(tmp_path):
    """One that is missing is named with how to get it; no URL shows its secrets."""
    urls = [
        f"s3://bucket/m.safetensors?x={CANARY}",
        "gs://bucket/m2.safetensors",
        "https://huggingface.co/a/b/resolve/main/m3.safetensors",
        f"https://acc.blob.core.windows.net/c/m4.safetensors?sig={CANARY}",
        "https://e.org/m5.safetensors",
    ]
    models = [{"url": url, "folder": "vae", "filename": f"{n}.safetensors"}
              for n, url in enumerate(urls)]  # fmt: skip
    found = told(**manifest(models={"after_start": models}), HF_TOKEN=CANARY)["extras"]
    assert CANARY not in str(found)
    missing = [name for name, module in EXTRAS.items() if not importlib.util.find_spec(module)]
    assert len(found) == 1 + len(missing)


def test_a_proxy_that_downloads_pass_by_is_told():
    """Without its password; where none is set there is no such line."""
    env = {"HTTPS_PROXY": f"http://me:{CANARY}@proxy.corp:3128", **manifest()}
    ((level, text),) = told(**env)["proxy"]
    assert (level, CANARY in text) == ("warn", False)
    assert "do not go through proxy.corp:3128" in text
    assert "proxy" not in told()
