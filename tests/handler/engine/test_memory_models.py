"""The model folders of the engine in memory."""

from __future__ import annotations

import pytest

from handler.engine.memory_models import MemoryModels
from handler.errors import NotFound

LOADER = {"input": {"required": {"name": [["None", "@loras"]], "size": ["INT", {"min": 1}]}}}


def test_classes_list_the_files_as_they_were_when_read(tmp_path):
    """A file that came is listed at once by the folder, by the class when it is read anew."""
    models = MemoryModels(tmp_path, ("loras", "vae"), {"Loader": LOADER})
    (tmp_path / "loras" / "sub").mkdir(parents=True)
    (tmp_path / "loras" / "sub" / "a.pt").touch()

    assert models.files_in("loras") == ["sub/a.pt"]
    assert models.files_in("vae") == []
    assert models.info.node("Loader").inputs["name"].choices == ("None",)
    models.refresh("Loader")
    assert models.info.node("Loader").inputs["name"].choices == ("None", "sub/a.pt")
    assert models.info.node("Loader").inputs["size"].minimum == 1
    assert models.folders.writable("vae") == tmp_path / "vae"


def test_other_folders_and_classes_are_not_there(tmp_path):
    """As an engine says it."""
    models = MemoryModels(tmp_path, ("loras",), {"Loader": LOADER})
    del models.nodes["Loader"]
    models.refresh("Loader")

    assert models.info.node("Loader") is None
    with pytest.raises(NotFound, match="nope"):
        models.files_in("nope")
