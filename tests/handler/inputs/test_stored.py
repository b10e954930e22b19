"""A media input that names a file in the engine's input folder."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handler.engine.client import ComfyClient
from handler.engine.command import Folders
from handler.engine.files import EngineFiles
from handler.engine.memory import PIXEL
from handler.errors import InputFailed
from handler.graph.media_inputs import MediaInput
from handler.inputs.stored import check_stored

ITEM = MediaInput("1", "LoadImage", "t", "image", "image", "x", False, "prompt.1.inputs.image")


@pytest.fixture
def files(tmp_path):
    """An engine's folders with a picture, a text and a neighbour outside."""
    where = Folders(tmp_path / "in", tmp_path / "out", tmp_path / "temp", None)
    for folder in (where.input / "sub", where.output, where.temp):
        folder.mkdir(parents=True)
    for path in ("in/photo.png", "in/sub/photo.png", "out/made.png", "temp/seen.png"):
        (tmp_path / path).write_bytes(PIXEL)
    (tmp_path / "in" / "page.png").write_text("<!doctype html><html></html>")
    (tmp_path / "secret.png").write_bytes(PIXEL)
    return EngineFiles(where, ComfyClient("http://127.0.0.1:1", client_id="x"))


@pytest.mark.parametrize(
    "name",
    ["photo.png", "sub/photo.png", "photo.png [input]", "made.png [output]", "seen.png [temp]"],
)
def test_a_file_that_is_there_passes(files, name):
    """In the folder that its annotation names, the input folder without."""
    check_stored(name, ITEM, files)


def test_a_file_that_is_not_there_is_told_with_the_nearest(files):
    """A typing error is seen at once."""
    with pytest.raises(InputFailed, match="neither a URL") as caught:
        check_stored("phoot.png", ITEM, files)

    assert caught.value.hint == "did you mean photo.png?"
    assert caught.value.details == {"nearest": ["photo.png"]}


@pytest.mark.parametrize("name", ["zzz", "x" * 5000, "sub", "gone.png [output]"])
def test_what_is_like_nothing_has_no_hint(files, name):
    """Very long names and folders are no files, either."""
    with pytest.raises(InputFailed) as caught:
        check_stored(name, ITEM, files)

    assert caught.value.hint is None
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "../secret.png [output]", "a\0b"])
def test_no_name_leads_out_of_its_folder(files, name):
    """Whether or not something is there."""
    with pytest.raises(InputFailed, match="must stay inside"):
        check_stored(name, ITEM, files)


def test_a_file_of_another_kind_is_refused(files):
    """By its content, whatever its name says."""
    with pytest.raises(InputFailed, match=r"loads image, but 'page\.png' is text/plain"):
        check_stored("page.png", ITEM, files)


def test_directories_are_left_to_the_engine(files):
    """It knows what it reads of them."""
    check_stored("anything", replace(ITEM, is_directory=True), files)


def test_an_attached_engines_folder_is_out_of_sight(tmp_path):
    """Only it can tell; names that lead out are refused here already."""
    where = Folders(tmp_path / "in", tmp_path / "out", tmp_path / "temp", None, shared=False)
    files = EngineFiles(where, ComfyClient("http://127.0.0.1:1", client_id="x"))
    check_stored("photo.png", ITEM, files)
    with pytest.raises(InputFailed):
        check_stored("../photo.png", ITEM, files)
