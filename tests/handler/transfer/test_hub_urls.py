"""What URLs of the hub name."""

from __future__ import annotations

import pytest

from handler.transfer.hub_urls import HubFile, is_repository_page, names_a_file, parsed


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("a/b/resolve/main/m.st?download=true", HubFile("a/b", "model", (("main", "m.st"),))),
        ("a/b/blob/main/x/m.st", HubFile("a/b", "model", (("main", "x/m.st"), ("main/x", "m.st")))),
        ("gpt2/resolve/main/m.st", HubFile("gpt2", "model", (("main", "m.st"),))),
        ("datasets/a/b/raw/v1/m%20n", HubFile("a/b", "dataset", (("v1", "m n"),))),
        ("datasets/squad/resolve/v1/m", HubFile("squad", "dataset", (("v1", "m"),))),
        ("spaces/a/b/resolve/v1/m", HubFile("a/b", "space", (("v1", "m"),))),
        ("a/b/resolve/refs%2Fpr%2F3/x/m", HubFile("a/b", "model", (("refs/pr/3", "x/m"),))),
        ("a/b/resolve/refs/pr/3/x/m", HubFile("a/b", "model", (("refs/pr/3", "x/m"),))),
        ("a/resolve/resolve/main/m", HubFile("a/resolve", "model", (("main", "m"),))),
        ("a/b/tree/main/m", None),
        ("a/b/resolve/main", None),
        ("a/b", None),
        ("", None),
    ],
)
def test_urls_of_the_hub(path, file):
    """Every form that its pages give."""
    assert parsed(f"https://huggingface.co/{path}") == file


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/owner/name", True),
        ("/owner/name/", True),
        ("/owner/stable-v1.5", True),
        ("/gpt2", True),
        ("/owner/name/tree/main/sub", True),
        ("/owner/name/discussions/3", True),
        ("/owner/name/resolve", True),
        ("/datasets/owner/name", True),
        ("/spaces/owner/name/tree/main", True),
        ("/owner/name/resolve/main/m", False),
        ("/owner/name/blob/main/m", False),
        ("/owner/name/raw/main/m", False),
        ("/front/logo.svg", False),
        ("/api/models/owner/name", False),
        ("/avatars/a.png", False),
        ("/favicon.ico", False),
        ("/", False),
    ],
)
def test_pages_of_repositories_are_told_from_files(path, page):
    """Whatever else the hub serves is neither."""
    assert is_repository_page(path) is page


def test_a_link_of_a_file_has_its_verb():
    """Well formed or not: the source says what is wrong with it."""
    assert names_a_file("/a/b/resolve/main")
    assert not names_a_file("/a/b")
