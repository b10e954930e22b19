"""What is noted of an object, and which links are its own."""

from __future__ import annotations

import os

import pytest

from handler.models.item import Item, from_note, is_link_of, noted, regular, unlink_links


@pytest.fixture
def item(tmp_path):
    path = tmp_path / "o.pt"
    path.write_bytes(b"bytes")
    made = Item(key="url-a", path=path, bytes=5, leaf="o.pt", protected=True)
    assert made.present()
    return made


def test_a_note_reads_back_as_it_was_written(item, tmp_path):
    """All of it but what the disk tells."""
    again = from_note(noted(item, tmp_path), tmp_path)

    assert again is not None
    assert noted(again, tmp_path) == noted(item, tmp_path)


def test_a_note_that_leads_outside_is_none(item, tmp_path):
    """Its folder may be shared."""
    assert from_note({**noted(item, tmp_path), "file": "../o.pt"}, tmp_path) is None
    assert from_note({}, tmp_path) is None


def test_only_its_own_links_are_removed(item, tmp_path):
    """Hard and symbolic, dangling ones too; what others put there stays."""
    names = ("hard", "soft", "other", "elsewhere", "gone")
    item.links = {tmp_path / name for name in names}
    os.link(item.path, tmp_path / "hard")
    (tmp_path / "soft").symlink_to(item.path)
    (tmp_path / "other").write_bytes(b"bytes")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "other")
    assert is_link_of(tmp_path / "soft", item)

    unlink_links(item)

    assert {path.name for path in tmp_path.iterdir()} == {"o.pt", "other", "elsewhere"}


def test_only_a_whole_regular_file_is_present(item, tmp_path):
    """A symbolic link could lead anywhere."""
    item.path.write_bytes(b"byte")
    assert not item.present()
    item.path.unlink()
    (tmp_path / "x").write_bytes(b"bytes")
    item.path.symlink_to(tmp_path / "x")
    assert not item.present()
    assert regular(item.path) is None
