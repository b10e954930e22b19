"""What the doctor tells of models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handler.settings import Settings
from local_server.cli.doctor_models import Mount, model_findings, mount_of, read_speed

MIB = 1 << 20


@pytest.fixture
def examined(tmp_path):
    """Examine folders of our own with the embedded engine; topic -> texts."""
    (tmp_path / "models").mkdir()

    def examine(volumes=(), *, quick=True, **env):
        env = {"ENGINE": "embedded", "MODEL_DIR": str(tmp_path / "models"), **env}
        settings = Settings.from_env({"CACHE_DIR": str(tmp_path / "cache"), **env})
        told = {}
        for finding in model_findings(settings, quick=quick, volumes=volumes):
            told.setdefault(finding.topic, []).append(f"{finding.level} {finding.text}")
        return told

    return examine


def put(path, content=b"12345"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_roots_are_told_with_mount_and_space_and_nothing_is_made(examined, tmp_path):
    """A root without model folders is worth a warning, a volume that is not there is not."""
    (tmp_path / "bare").mkdir()
    put(tmp_path / "vol" / "checkpoints" / "a.ckpt")
    told = examined(
        (tmp_path / "no-volume", tmp_path / "vol"),
        MODEL_ROOTS=f"{tmp_path}/bare:{tmp_path}/nowhere",
    )
    roots = told["model root"]
    assert any(text.startswith(f"ok {tmp_path}/models: ") for text in roots)
    assert any(text.startswith(f"ok {tmp_path}/vol: ") and "GiB free" in text for text in roots)
    assert any(text.startswith(f"warn {tmp_path}/bare: ") and "no model folder" in text
               for text in roots)  # fmt: skip
    assert any(text.startswith(f"warn {tmp_path}/nowhere: not searched") for text in roots)
    assert told["volume"] == [f"ok {tmp_path}/no-volume is not there"]
    assert told["model files"][0].startswith("ok checkpoints 1 (")
    assert not list((tmp_path / "models").iterdir())
    assert not (tmp_path / "cache").exists()


def test_a_folder_for_models_that_will_be_made_is_fine(examined, tmp_path, caplog):
    """MODEL_DIR is made by the server; one that cannot be made is told."""
    (told,) = examined(MODEL_DIR=str(tmp_path / "new" / "models"))["model root"]
    assert told == f"ok {tmp_path}/new/models, not there yet"
    assert caplog.text == ""


def test_the_cache_is_told_with_its_budget(examined, tmp_path):
    """One that the disk cannot hold is worth a warning."""
    put(tmp_path / "cache" / "objects" / "x", b"0" * MIB)
    assert examined()["cache"][0].startswith(f"ok {tmp_path}/cache: 0.0 GiB of models fetched")
    assert "less than the budget" in examined(LRU_CACHE_SIZE_GB="1000000")["cache"][0]


def test_an_attached_engine_has_its_models_elsewhere(examined):
    """That is a warning."""
    settings = Settings.from_env({"COMFY_URL": "http://127.0.0.1:1"})
    (finding,) = model_findings(settings, quick=True)
    assert (finding.level, finding.topic) == ("warn", "model folders")


def test_each_root_is_read_from(examined, tmp_path):
    """By its largest file; what is in memory already is told as such."""
    put(tmp_path / "models" / "loras" / "a.ckpt", os.urandom(9 * MIB))
    (text,) = examined(quick=False)["read speed"]
    assert f"{tmp_path}/models: " in text
    assert "read speed" not in examined()


def test_only_what_is_not_in_memory_is_measured(tmp_path):
    """A file that was just written is; a small one, or none, tells nothing."""
    path = put(tmp_path / "large", os.urandom(20 * MIB))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    first, again = read_speed(path), read_speed(path)
    assert again is None
    assert first is None or first > 0
    assert read_speed(put(tmp_path / "small")) is None
    assert read_speed(tmp_path / "none") is None


def test_the_mount_of_a_path_is_the_innermost(tmp_path):
    """Of two at one place the later; blanks are written as numbers."""
    table = tmp_path / "mounts"
    lines = ["/dev/a / ext4 rw 0 0", f"h:/x {tmp_path}/a\\040b nfs4 rw 0 0",
             f"none {tmp_path}/a\\040b tmpfs rw 0 0"]  # fmt: skip
    table.write_text("\n".join(lines))
    inside = tmp_path / "a b" / "c"
    inside.mkdir(parents=True)
    assert mount_of(inside, table) == Mount(tmp_path / "a b", "tmpfs")
    assert mount_of(Path("/"), table) == Mount(Path("/"), "ext4")
    assert mount_of(Path("/"), tmp_path / "none") is None
