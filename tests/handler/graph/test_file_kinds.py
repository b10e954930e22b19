"""Kinds of files by name and declaration."""

from __future__ import annotations

import pytest

from handler.graph.file_kinds import (
    declared_upload,
    is_model_name,
    kind_of_choices,
    kind_of_name,
    kind_of_path,
    summed,
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.PNG", "image"),
        ("sub/a.webm", "video"),
        ("a.png [temp]", "image"),
        ("a [1].wav", "audio"),
        ("https://x.test/a.mp4?sig=b.png#c.wav", "video"),
        ("data:audio/wav;base64,AAAA", "audio"),
        ("data:application/pdf;base64,AAAA", "file"),
        ("x.latent", "file"),
        ("x.safetensors", None),
        ("https://x.test/api/download/123", None),
        ("plain", None),
        ("", None),
    ],
)
def test_a_name_tells_its_kind(name, kind):
    """Names, URLs and data URIs; models and the unknown have no kind."""
    assert kind_of_name(name) == kind


def test_model_names_are_known_by_their_end():
    """Weights in any of the usual formats, and nothing else."""
    assert is_model_name("a/b.GGUF")
    assert not is_model_name("a.png")


@pytest.mark.parametrize(
    ("kinds", "sum_"),
    [
        (["image", "image"], "image"),
        (["image", "video"], "video"),
        (["audio", "image"], "file"),
        (["image", None], None),
        ([None], None),
        ([], None),
    ],
)
def test_kinds_sum_up(kinds, sum_):
    """Several kinds are files of any sort; one unknown name spoils the list."""
    assert summed(kinds) == sum_


def test_choices_are_files_only_if_all_are():
    """One choice that is no media file makes the list an ordinary one."""
    assert kind_of_choices(("a.png", "b.jpg")) == "image"
    assert kind_of_choices(("none", "b.jpg")) is None
    assert kind_of_choices((1, "b.jpg")) is None


@pytest.mark.parametrize(
    ("name", "type_", "options", "kind"),
    [
        ("x", "COMBO", {"image_upload": True}, "image"),
        ("x", "COMBO", {"image_upload": False}, None),
        ("x", "COMBO", {"animated_image_upload": True}, "image"),
        ("x", "COMBO", {"image_folder": "output"}, "image"),
        ("x", "COMBO", {"upload": "audio_upload"}, "audio"),
        ("my_video", "STRING", {"upload": True}, "video"),
        ("x", "STRING", {"upload": True}, "file"),
        ("x", "AUDIO_RECORD", {}, "audio"),
        ("image", "IMAGE", {}, None),
    ],
)
def test_declared_uploads(name, type_, options, kind):
    """Each flag in use names a kind, a bare `upload` leaves it to the input's name."""
    assert declared_upload(name, type_, options) == kind


@pytest.mark.parametrize(
    ("name", "type_", "options", "path"),
    [
        ("v", "STRING", {"vhs_path_extensions": ["mp4", "gif"]}, ("video", False)),
        ("v", "STRING", {"vhs_path_extensions": ["zip"]}, ("file", False)),
        ("v", "STRING", {"vhs_path_extensions": []}, ("image", True)),
        ("filename_prefix", "STRING", {"vhs_path_extensions": []}, (None, False)),
        ("v", "INT", {"vhs_path_extensions": []}, None),
        ("image", "STRING", {"placeholder": "X://here.png"}, None),
        ("image", "STRING", {"placeholder": "/here.png"}, ("image", False)),
        ("image", "STRING", {"default": ""}, None),
        ("name", "STRING", {"default": "out.png"}, None),
    ],
)
def test_declared_paths(name, type_, options, path):
    """Extensions make a path, none of them a directory; an example only for `image`."""
    assert kind_of_path(name, type_, options) == path
