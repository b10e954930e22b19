"""Manifests as text, and everything that can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from handler.manifest.faults import ManifestInvalid
from handler.manifest.git_refs import GitSource
from handler.manifest.model_schema import CATALOGUE_KEYS, MODEL_KEYS
from handler.manifest.records import ComfyUIPin, RegistryName
from handler.manifest.schema import (
    KEYS,
    MOMENTS,
    PACK_KEYS,
    REQUIRES_KEYS,
    parse_manifest,
    read_manifest,
)

DOCUMENT = Path(__file__).parents[3] / "docs" / "manifest.md"

SHA256 = "ab" * 32
FULL = f"""\
comfyui: 0.3.64
apt: [ffmpeg, libgl1=1.6.0-1, "libc6:amd64"]
pip:
  - "opencv-python-headless>=4.10"
  - --extra-index-url https://pypi.example.org/simple
custom_nodes:
  - comfyui-impact-pack@8.1.0
  - https://github.com/owner/Repo/tree/feature/x
  - url: https://github.com/owner/Other
    ref: 1234567
    optional: true
    folder: renamed
  - name: some-pack
    version: latest
models:
  before_start:
    - url: https://example.org/a/dream%20shaper.safetensors?x=1
      local_path: models/checkpoints/dream.safetensors
    - url: https://example.org/b/vae.safetensors
      folder: vae
      sha256: {SHA256.upper()}
      size: 335_000
      name: my-vae
      aliases: [vae-1]
  after_start:
    - urls: [https://a.example.org/x, https://b.example.org/x]
      folder: loras
      filename: sub/x.safetensors
      licence: MIT
catalogue:
  big.safetensors:
    url: s3://bucket/big.safetensors
    folder: checkpoints
    aliases: [big]
preload: [dream.safetensors]
requires:
  vram_gb: 12
  ram_gb: 24.5
  gpu: RTX 4090
  typical_s: 5-15
  pattern: gateway
  image: runtime
"""


def faults_of(text, **options):
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(text, **options)
    return [(fault.line, fault.path, fault.message) for fault in caught.value.faults]


def test_everything_that_can_be_said_is_read():
    """Each key ends up in its record."""
    manifest = parse_manifest(FULL)

    assert ComfyUIPin(version="0.3.64") == manifest.comfyui
    assert manifest.apt == ("ffmpeg", "libgl1=1.6.0-1", "libc6:amd64")
    assert len(manifest.pip) == 2
    packs = manifest.custom_nodes
    assert [pack.name for pack in packs] == ["comfyui-impact-pack", "Repo", "renamed", "some-pack"]
    assert RegistryName("comfyui-impact-pack", "8.1.0") == packs[0].source
    assert isinstance(packs[1].source, GitSource)
    assert packs[1].source.refs == ("feature/x", "feature")
    assert (packs[2].source.refs, packs[2].optional, packs[2].line) == (("1234567",), True, 9)
    assert RegistryName("some-pack", None) == packs[3].source
    first, second = manifest.before_start
    assert first.local_path == "models/checkpoints/dream.safetensors"
    assert (second.folder, second.filename, second.sha256) == ("vae", "vae.safetensors", SHA256)
    assert (second.size, second.name, second.aliases) == (335000, "my-vae", ("vae-1",))
    assert len(manifest.after_start[0].urls) == 2
    assert (
        manifest.catalogue["big.safetensors"].filename,
        manifest.catalogue["big.safetensors"].aliases,
    ) == ("big.safetensors", ("big",))
    assert manifest.preload == ("dream.safetensors",)
    assert manifest.requires.typical_s == (5.0, 15.0)
    assert (
        manifest.requires.vram_gb,
        manifest.requires.ram_gb,
        manifest.requires.pattern,
    ) == (12, 24.5, "gateway")


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "apt:\npip:\nmodels:\n"])
def test_every_key_is_optional(text):
    """An empty manifest asks for nothing, and `models` may be left out."""
    manifest = parse_manifest(text)

    assert manifest.models == ()
    assert manifest.custom_nodes == ()


def test_every_fault_is_told_at_once_with_its_line():
    """One look at the message suffices to put all of it right."""
    text = """\
apts: [ffmpeg]
apt: [ "-o=evil", 7zip ]
pip: numpy
custom_nodes:
  - https://github.com/owner
  - ref: main
models:
  before_strat:
    - url: x
  before_start:
    - url: https://example.org/x
    - url: notaurl
      local_path: ../../etc/passwd
      sha256: 12
      size: -4
requires:
  pattern: gatway
"""
    found = faults_of(text)

    assert [line for line, _, _ in found] == [1, 2, 3, 5, 6, 8, 11, 12, 13, 14, 15, 17]
    told = {path: message for _, path, message in found}
    assert "did you mean apt?" in told["apts"]
    assert "did you mean before_start" in told["models.before_strat"]
    assert "list" in told["pip"]
    assert "local_path" in told["models.before_start[0]"]
    assert "gateway or queue" in told["requires.pattern"]


@pytest.mark.parametrize("path", ["../x", "models/../../x", "~/x", "a\\b"])
def test_places_outside_are_refused(path):
    """No entry leads out of ComfyUI's folder."""
    text = f"models:\n  before_start:\n    - url: https://e.org/x\n      local_path: {path!r}\n"
    assert [f[:2] for f in faults_of(text)] == [(4, "models.before_start[0].local_path")]


def test_clashes_between_entries_are_found():
    """Two packs for one folder, two files for one place, two files for one name."""
    text = """\
custom_nodes:
  - https://github.com/a/Pack
  - https://github.com/b/pack
models:
  before_start:
    - {url: https://e.org/1/x.bin, folder: vae}
    - {url: https://e.org/2/x.bin, folder: vae}
    - {url: https://e.org/3/x.bin, folder: vae, filename: y.bin, name: one}
catalogue:
  one: {url: https://e.org/4/x.bin, folder: vae}
"""
    assert [line for line, _, _ in faults_of(text)] == [3, 7, 8]


def test_local_repositories_need_leave():
    """A folder of this machine is a source only where the operator says so."""
    text = "custom_nodes: [/srv/packs/mine]"

    assert faults_of(text)
    assert parse_manifest(text, local=True).custom_nodes[0].name == "mine"


def test_secrets_are_not_in_faults():
    """A token in an address that is wrong otherwise does not reach the message."""
    told = str(faults_of("custom_nodes: ['https://user:s3cret@github.com/owner']"))
    assert "s3cret" not in told
    told = str(
        faults_of(
            "models: {before_start: [{url: 'x://e.org/?token=s3cret', folder: vae}]}",
        )
    )
    assert "s3cret" not in told
    text = "models: {before_start: [{url: 'https://e.org/a.b?token=s3cret', folder: vae}]}"
    assert "s3cret" not in repr(parse_manifest(text))


def test_text_wins_over_the_file(tmp_path):
    """`MANIFEST_JSON` is taken before `MANIFEST`; without both there is none."""
    path = tmp_path / "m.yml"
    path.write_text("apt: [file]")

    assert read_manifest(path).apt == ("file",)
    assert read_manifest(path, json.dumps({"apt": ["text"]})).apt == ("text",)
    assert read_manifest(None, "  ") is None


def test_files_that_cannot_be_read_are_faults(tmp_path):
    """A missing file and another ending say so."""
    with pytest.raises(ManifestInvalid, match="No such file"):
        read_manifest(tmp_path / "missing.yaml")
    with pytest.raises(ManifestInvalid, match="must end in"):
        read_manifest(tmp_path / "m.toml")


def documented():
    """Give the text of docs/manifest.md, and the example in it."""
    text = DOCUMENT.read_text()
    return text, text.partition("```yaml\n")[2].partition("```")[0]


def test_the_documented_example_is_a_manifest(tmp_path):
    """It is read as it stands there."""
    path = tmp_path / "m.yaml"
    path.write_text(documented()[1])
    manifest = read_manifest(path, allow_local_git=True)
    assert len(manifest.custom_nodes) == 9
    assert [len(manifest.before_start), len(manifest.after_start)] == [2, 1]
    assert list(manifest.catalogue) == ["anime"]
    assert manifest.requires.typical_s == (5, 15)


def test_every_key_is_documented():
    """In the example, and in a table."""
    text, example = documented()
    body = yaml.safe_load(example)
    packs = [pack for pack in body["custom_nodes"] if isinstance(pack, dict)]
    models = [model for moment in MOMENTS for model in body["models"][moment]]
    shown = [
        (KEYS, [body]),
        (MOMENTS, [body["models"]]),
        (PACK_KEYS, packs),
        (MODEL_KEYS, models),
        (REQUIRES_KEYS, [body["requires"]]),
    ]
    for keys, entries in shown:
        assert {key for entry in entries for key in entry} == set(keys)
    assert set(body["catalogue"]["anime"]) <= set(CATALOGUE_KEYS)
    tables = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = {key.strip(" `") for cell in tables for key in cell.split(",")}
    assert named == {key for keys, _ in shown for key in keys} - set(MOMENTS)
