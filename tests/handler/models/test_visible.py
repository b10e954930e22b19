"""Whether the engine sees a file."""

from __future__ import annotations

import asyncio

import pytest
from models_here import FOLDERS, LOADERS, wants
from worker import parts_in

from handler.errors import InternalFault
from handler.graph.model_inputs import is_probe
from handler.models.visible import (
    find_folder,
    has_choice,
    make_listed,
    make_visible,
    model_suffix,
)

URL = "https://h.example/a.safetensors"


@pytest.fixture
def parts(tmp_path):
    return parts_in(tmp_path, nodes=LOADERS, model_folders=FOLDERS)


def put(tmp_path, folder, name):
    path = tmp_path / "models" / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


async def test_a_file_that_came_is_among_the_choices_afterwards(tmp_path, parts):
    """The class is read anew; what was a choice already costs nothing."""
    (want,) = await wants(parts, "LoraLoader", lora_name=URL)
    path = put(tmp_path, "loras", "sub/a.pt")
    assert not await has_choice(parts.engine, want, "sub/a.pt")

    await make_visible(parts.engine, want, "loras", path)

    assert await has_choice(parts.engine, want, "sub/a.pt")
    parts.engine.learn("LoraLoader", {})
    await make_visible(parts.engine, want, "loras", path)


async def test_a_file_that_comes_late_is_waited_for(tmp_path, parts):
    """Some file systems tell of changes with a delay."""
    (want,) = await wants(parts, "LoraLoader", lora_name=URL)
    path = tmp_path / "models" / "loras" / "a.pt"
    asyncio.get_running_loop().call_later(0.1, put, tmp_path, "loras", "a.pt")

    await make_visible(parts.engine, want, "loras", path)


async def test_a_file_that_is_not_seen_is_a_fault_with_its_path(tmp_path, parts):
    """And with what the input may want."""
    (want,) = await wants(parts, "LoraLoader", lora_name=URL)
    path = put(tmp_path, "checkpoints", "a.pt")

    with pytest.raises(InternalFault, match=r"checkpoints/a\.pt") as caught:
        await make_visible(parts.engine, want, "checkpoints", path)
    assert ".pt" in caught.value.hint
    with pytest.raises(InternalFault, match="model folder loras"):
        await make_listed(parts.engine, "loras", path)
    await make_listed(parts.engine, "checkpoints", path)


async def test_the_folder_behind_an_input_is_found_by_a_file_in_each(tmp_path, parts):
    """The files are gone afterwards, from the choices as well."""
    (want,) = await wants(parts, "OddLoader", thing=URL)

    assert set(want.folders) == {"checkpoints", "loras", "odd_ones", "more_odd_ones", "diffusers"}
    assert await find_folder(parts.engine, want, ".safetensors") == "odd_ones"

    assert not [path for path in (tmp_path / "models").rglob("*") if path.is_file()]
    spec = (await parts.engine.object_info()).node("OddLoader")
    assert not any(is_probe(choice) for choice in spec.inputs["thing"].choices)


async def test_an_input_behind_which_is_no_folder_is_none(parts):
    """It lists something else."""
    (want,) = await wants(parts, "Unrelated", thing=URL)

    assert await find_folder(parts.engine, want, ".safetensors") is None


@pytest.mark.parametrize(
    ("url", "suffix"),
    [
        ("https://h/a.GGUF?x=1.pt", ".gguf"),
        ("https://h/a/b", ".safetensors"),
        ("https://h/a.html", ".safetensors"),
    ],
)
def test_the_suffix_of_an_empty_file_is_the_models(url, suffix):
    """Loaders list some kinds of files only."""
    assert model_suffix(url) == suffix
