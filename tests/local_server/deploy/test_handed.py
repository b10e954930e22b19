"""What workers are handed of a deploy.yaml's manifest."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from live import REPO

from handler.manifest.schema import parse_manifest, read_manifest
from local_server.deploy.document import parse_deploy
from local_server.deploy.faults import DeployFailed
from local_server.deploy.handed import MOST_BYTES, as_json, job_limit_env, manifest_env

DEPLOY = parse_deploy("name: sd\nmanifest: m.yaml\n")
MODELS = """
comfyui: 0.30
pip: [torch]
custom_nodes: [{name: pack, version: 1.10}]
requires: {vram_gb: 12, typical_s: [5, 10.50]}
models:
  before_start:
    - &a {url: "https://example.com/a.bin", folder: loras, size: 6_000, aliases: [2024-01-01]}
    - {<<: *a, filename: b.bin, aliases: null}
"""


def manifest_in(folder, text=MODELS):
    path = folder / "m.yaml"
    path.write_text(text)
    return read_manifest(path)


def meaning(manifest):
    """Give all of a manifest but where it came from, and its lines."""
    bare = {"path": None, "source": "", "digest": ""}
    parts = {
        name: tuple(replace(one, line=0) for one in getattr(manifest, name))
        for name in ("custom_nodes", "before_start", "after_start")
    }
    named = {name: replace(one, line=0) for name, one in manifest.catalogue.items()}
    return replace(manifest, **bare, **parts, catalogue=named)


def test_what_is_sent_means_the_same(tmp_path):
    """Versions stay as they are written, numbers stay numbers, anchors are written out."""
    manifest = manifest_in(tmp_path)
    env, hints = manifest_env(DEPLOY, manifest, {})
    sent = parse_manifest(env["MANIFEST_JSON"], is_json=True)
    assert meaning(sent) == meaning(manifest)
    assert sent.comfyui.version == "0.30"
    assert [model.size for model in sent.models] == [6000, 6000]
    assert len(hints) == 1


@pytest.mark.parametrize("path", sorted((REPO / "manifests").glob("*.yaml")), ids=lambda p: p.stem)
def test_our_own_manifests_can_be_sent(path):
    """All of them are small enough."""
    manifest = read_manifest(path)
    env, hints = manifest_env(DEPLOY, manifest, {})
    assert meaning(parse_manifest(env["MANIFEST_JSON"], is_json=True)) == meaning(manifest)
    assert any(f"{path.stem}.warmup.json is not sent" in hint for hint in hints)


def test_one_in_json_is_sent_too():
    """Without its blanks."""
    assert as_json('{"pip": ["a"],\t"apt": []}', is_json=True) == '{"pip":["a"],"apt":[]}'


@pytest.mark.parametrize("name", ["MANIFEST", "MANIFEST_JSON"])
def test_what_the_file_says_wins(tmp_path, name):
    """As does an image that has the manifest."""
    manifest = manifest_in(tmp_path)
    assert manifest_env(DEPLOY, manifest, {name: "x"}) == ({}, [])
    baked = parse_deploy("name: sd\nmanifest: m.yaml\nmanifest_baked: true\n")
    assert manifest_env(baked, manifest, {}) == ({}, [])
    assert manifest_env(DEPLOY, None, {}) == ({}, [])


def test_one_that_is_too_large_is_refused(tmp_path):
    """With the remedy."""
    manifest = manifest_in(tmp_path, json.dumps({"pip": [f"p{at}" for at in range(MOST_BYTES)]}))
    with pytest.raises(DeployFailed, match="bytes as JSON") as told:
        manifest_env(DEPLOY, manifest, {})
    assert "manifest_baked: true" in told.value.hint


def test_what_is_beside_the_manifest_is_not_sent_and_told(tmp_path):
    """A warmup unless the file has one, and a lock."""
    manifest = manifest_in(tmp_path)
    (tmp_path / "m.warmup.json").write_text("{}")
    (tmp_path / "m.lock.yaml").write_text("")
    env, (_, warmup, lock) = manifest_env(DEPLOY, manifest, {})
    assert list(env) == ["MANIFEST_JSON"]
    assert "m.warmup.json is not sent: WARMUP_PROMPT_JSON" in warmup
    assert "m.lock.yaml is not sent" in lock
    assert len(manifest_env(DEPLOY, manifest, {"WARMUP_PROMPT_JSON": "{}"})[1]) == 2


@pytest.mark.parametrize(("timeout_s", "limit"), [(5, "4.75"), (60, "57"), (604800, "604790")])
def test_our_limit_is_below_the_platforms(timeout_s, limit):
    """By a twentieth, and by ten seconds at most."""
    assert job_limit_env(timeout_s, {}) == {"JOB_TIMEOUT_S": limit}
    assert job_limit_env(timeout_s, {"JOB_TIMEOUT_S": "1"}) == {}
