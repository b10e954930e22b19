from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from local_server.engine.info import project_version

RECORDED = json.loads((Path(__file__).parents[2] / "recordings" / "object_info.json").read_text())
FILE_CHOICES = {"LoadImage": "image", "LoadImageMask": "image"}


async def test_every_node_is_described_as_in_comfyui(start: Any) -> None:
    """Names, types, limits, choices and outputs are the recorded ones."""
    client = await start(test_faults=False)
    told = await client.get("/object_info")
    for name, field in FILE_CHOICES.items():
        # The choices are the files present.
        told[name]["input"]["required"][field][0] = []
        RECORDED[name]["input"]["required"][field][0] = []

    assert len(told) >= 40
    assert told == {name: RECORDED[name] for name in told}


async def test_one_node_can_be_asked_for(client: Any) -> None:
    """An unknown one is an empty answer, not an error."""
    assert list(await client.get("/object_info/SaveImage")) == ["SaveImage"]
    assert await client.get("/object_info/Nope") == {}


async def test_uploaded_pictures_are_choices_at_once(client: Any) -> None:
    """The folder is read for each request."""
    (client.engine.folders.input / "new.png").touch()
    told = await client.get("/object_info/LoadImage")

    assert told["LoadImage"]["input"]["required"]["image"][0] == ["new.png"]


async def test_models_are_listed(client: Any) -> None:
    """Folders by name, files of a folder, embeddings without suffix; 404 for other folders."""
    folder = client.engine.folders.models / "embeddings" / "sub"
    folder.mkdir(parents=True)
    (folder / "a.pt").touch()

    assert (await client.get("/models"))[:3] == ["checkpoints", "configs", "loras"]
    assert await client.get("/models/embeddings") == ["sub/a.pt"]
    assert await client.get("/embeddings") == ["sub/a"]
    assert await client.get("/models/loras") == []
    async with client.session.get("/models/nope") as answer:
        assert answer.status == 404


async def test_the_registry_of_model_folders_is_told(start: Any) -> None:
    """In two shapes, as ComfyUI has them: an object of all, and a list of those with models."""
    client = await start(test_faults=False)
    models = client.engine.folders.models
    told = await client.get("/internal/folder_paths")
    listed = await client.get("/experiment/models")

    assert list(told) == await client.get("/models")
    assert told["text_encoders"] == [str(models / "text_encoders"), str(models / "clip")]
    assert {"configs", "custom_nodes"} == told.keys() - {one["name"] for one in listed}
    assert all(told[one["name"]] == one["folders"] for one in listed)


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_the_version_says_that_this_is_not_comfyui(client: Any, prefix: str) -> None:
    """The stats have ComfyUI's fields and name the embedded engine."""
    stats = await client.get(f"{prefix}/system_stats")

    assert stats["system"]["comfyui_version"].startswith("embedded-")
    assert stats["system"]["ram_total"] > 0
    assert project_version("no-such-package") == "unknown"
    assert [device["type"] for device in stats["devices"]] == ["cpu"]


async def test_there_are_no_extensions(client: Any) -> None:
    """The engine has no web page to extend."""
    assert await client.get("/extensions") == []
