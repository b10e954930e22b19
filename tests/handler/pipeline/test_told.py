"""What a node told, read by shape."""

from __future__ import annotations

import pytest

from handler.pipeline.told import announced_files, is_output, is_temp, joined, texts, without_folder

A, B, C = ({"filename": name} for name in ("a.png", "b.mp4", "c.glb"))


@pytest.mark.parametrize(
    ("told", "files"),
    [
        ({}, []),
        ({"images": [A, B]}, [A, B]),
        ({"gifs": [A], "3d": (B,), "video": C}, [A, B, C]),
        ({"images": [{"filename": 5}, {"name": "x"}, None, "a.png", [A]]}, []),
        ({"images": None, "animated": [True], "n": 5, "text": "a.png"}, []),
    ],
)
def test_files_are_objects_with_a_filename_under_any_key(told, files):
    """One object, or a list of them."""
    assert list(announced_files(told)) == files


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({}, []),
        ({"text": ["one", "two"], "result": "three"}, ["one", "two", "three"]),
        ({"text": ("one",), "n": [1, None, {"a": "b"}], "images": [A]}, ["one"]),
    ],
)
def test_texts_are_told_under_any_key(told, found):
    """One text, or a list of them."""
    assert list(texts(told)) == found


@pytest.mark.parametrize(
    ("kind", "temp", "plain", "asked"),
    [
        ("output", False, True, True),
        (None, False, True, True),
        ("temp", True, False, True),
        ("input", False, False, False),
    ],
)
def test_what_counts_as_a_result_goes_by_the_folder(kind, temp, plain, asked):
    """Previews only where they are asked for, the caller's own files never."""
    item = {"filename": "a.png", **({"type": kind} if kind else {})}

    assert is_temp(item) is temp
    assert is_output(item, temp=False) is plain
    assert is_output(item, temp=True) is asked


def test_the_jobs_folder_is_taken_out():
    """Of files under any key, paths in full included; what is no file stays."""
    told = {
        "images": [{"filename": "a.png", "subfolder": "comfyfn-jobs/u1d/2/sub", "type": "output"}],
        "gifs": ({"filename": "b.mp4", "subfolder": "comfyfn-jobs/u1d", "fullpath": "/o/u1d/b"},),
        "one": {"filename": "c.png", "subfolder": "mine", "n": 5},
        "text": ["about u1d"],
        "animated": (True,),
    }
    assert without_folder(told, "u1d") == {
        "images": [{"filename": "a.png", "subfolder": "2/sub", "type": "output"}],
        "gifs": [{"filename": "b.mp4", "subfolder": ""}],
        "one": {"filename": "c.png", "subfolder": "mine", "n": 5},
        "text": ["about u1d"],
        "animated": [True],
    }
    assert told["one"]["subfolder"] == "mine"


def test_what_a_node_was_expanded_to_tells_under_its_name():
    """Several of them, one after the other: nothing is lost."""
    first = {"images": [{"filename": "a"}], "text": "one", "n": [1]}
    second = {"images": [{"filename": "b"}], "text": "two"}

    both = joined(first, second)

    assert both == {"images": [{"filename": "a"}, {"filename": "b"}], "text": "two", "n": [1]}
    assert first["images"] == [{"filename": "a"}]
