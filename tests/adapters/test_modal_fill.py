"""The Volume of models is filled."""

from __future__ import annotations

import pytest
from contract.file_server import file_server

from adapters.modal_fill import fill
from handler.settings import Settings, SettingsError


async def test_every_model_is_told_of_and_what_is_there_stays(tmp_path):
    """One that cannot be had is no reason not to bring the others."""
    with file_server() as files:
        url = files.put("/a.bin", b"a" * 5000, "x/y")
        manifest = tmp_path / "m.yaml"
        manifest.write_text(
            "models:\n  before_start:\n"
            f"    - {{url: {url}, folder: loras}}\n"
            f"    - {{url: {files.url('/none.bin')}, local_path: models/vae/none.bin}}\n"
        )
        settings = Settings(manifest=manifest, model_dir=tmp_path / "models")
        items = [item async for item in fill(settings)]
        ends = {item["model"]: item["type"] for item in items if item["type"] != "progress"}
        assert ends == {"a.bin": "there", "none.bin": "failed"}
        assert (tmp_path / "models" / "loras" / "a.bin").stat().st_size == 5000
        asked = len(files.asked)
        again = [item async for item in fill(settings) if item["type"] == "there"]
        assert again == [{"type": "there", "model": "a.bin", "note": "there"}]
        assert all("/a.bin" not in path for path, _ in files.asked[asked:])


async def test_without_a_manifest_there_is_nothing_to_fill(tmp_path):
    """It says which settings are missing."""
    with pytest.raises(SettingsError, match="MANIFEST"):
        await anext(fill(Settings(model_dir=tmp_path)))
