"""A media input that names a file in the engine's input folder."""

from __future__ import annotations

import time
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
    ["photo.png", "sub/photo.png", "photo.png [input]", "made.png [output]"],
)
def test_a_file_that_is_there_passes(files, name):
    """In the folder that its annotation names, the input folder without."""
    check_stored(name, ITEM, files)


@pytest.mark.parametrize(
    "name",
    [
        "seen.png [temp]",
        "gone.png [temp]",
        "comfyfn-jobs/uid/photo.png",
        "sub/../comfyfn-jobs/uid/photo.png",
        "comfyfn-jobs/uid/photo.png [input]",
        "comfyfn-jobs/uid/made.png [output]",
        "comfyfn-jobs/uid/gone.png [output]",
        "link/photo.png",
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_no_job_loads_what_is_anothers(files, tmp_path, name, shared):
    """Not even with the right name, which only the other caller may know."""
    for path in ("in/comfyfn-jobs/uid/photo.png", "out/comfyfn-jobs/uid/made.png"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(PIXEL)
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "comfyfn-jobs" / "uid")
    if not shared:
        files = EngineFiles(replace(files._folders, shared=False), files._client)
    with pytest.raises(InputFailed, match="not for other jobs") as caught:
        check_stored(name, ITEM, files)

    assert "uid" not in str(caught.value.envelope())


def test_the_nearest_names_are_no_jobs(files, tmp_path):
    """A hint shows files that were put there, and no folder of a job."""
    (tmp_path / "in" / "comfyfn-jobs" / "0123456789abcdef").mkdir(parents=True)
    for name in ("comfyfn-job", "0123456789abcde"):
        with pytest.raises(InputFailed) as caught:
            check_stored(name, ITEM, files)
        assert caught.value.hint.startswith("the input folder is the operator's INPUT_DIR")


def test_a_name_that_is_a_url_in_part_shows_no_password(files):
    """A slash too few, and it is taken for a name."""
    with pytest.raises(InputFailed) as caught:
        check_stored("http:/me:s3cret@host/a.png?sig=t0ken", ITEM, files)

    said = str(caught.value.envelope())
    assert "s3cret" not in said
    assert "t0ken" not in said
    assert "host/a.png" in said


def test_an_endless_name_is_told_at_once(files):
    """Megabytes that look like a URL cost no more than a line."""
    begun = time.monotonic()
    with pytest.raises(InputFailed, match="neither a URL"):
        check_stored("a:" * 1_000_000 + " @?x=/", ITEM, files)
    assert time.monotonic() - begun < 8


def test_a_file_that_is_not_there_is_told_with_the_nearest(files):
    """A typing error is seen at once."""
    with pytest.raises(InputFailed, match="neither a URL") as caught:
        check_stored("phoot.png", ITEM, files)

    assert caught.value.hint == "did you mean photo.png?"
    assert caught.value.details == {"nearest": ["photo.png"]}


@pytest.mark.parametrize("name", ["zzz", "x" * 5000, "sub", "gone.png [output]"])
def test_what_is_like_nothing_has_no_names_in_its_hint(files, name):
    """Very long names and folders are no files, either."""
    with pytest.raises(InputFailed) as caught:
        check_stored(name, ITEM, files)

    assert "did you mean" not in (caught.value.hint or "")
    assert caught.value.details == {"nearest": []}
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
