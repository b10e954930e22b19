"""Links into model folders, on one disk and across two."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handler.errors import InternalFault
from handler.models.item import Item
from handler.models.publish import (
    MOST_LINKS,
    NameTaken,
    TooManyNames,
    link,
    taken_elsewhere,
)

BODY = b"x" * 5000


@pytest.fixture
def item(tmp_path):
    path = tmp_path / "object.pt"
    path.write_bytes(BODY)
    made = Item(key="url-x", path=path, bytes=len(BODY), leaf="object.pt", protected=False)
    assert made.present()
    return made


def test_a_hard_link_where_there_can_be_one(item, tmp_path):
    """Folders are made; doing it twice changes nothing."""
    target = tmp_path / "models" / "sub" / "m.pt"

    assert link(item, target)
    assert link(item, target)
    assert target.stat().st_ino == item.path.stat().st_ino
    assert not target.is_symlink()


def test_a_symbolic_link_across_disks(item, tmp_path):
    """An absolute one."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk only")
    folder = other / f"comfyfn-test-{os.getpid()}"
    try:
        assert link(item, folder / "m.pt")
        assert (folder / "m.pt").readlink() == item.path
        assert link(item, folder / "m.pt")
        item.path.unlink()
        with pytest.raises(InternalFault, match="vanished") as caught:
            link(item, folder / "n.pt")
        assert caught.value.retryable
        assert not (folder / "n.pt").is_symlink()
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_a_file_has_only_so_many_names_in_a_folder(item, tmp_path):
    """Every one makes the engine's lists longer; in another folder it may have more."""
    loras, vae = tmp_path / "loras", tmp_path / "vae"
    item.links = {loras / f"{n}.pt" for n in range(MOST_LINKS)}
    assert link(item, loras / "0.pt")
    assert link(item, vae / "m.pt")
    with pytest.raises(TooManyNames, match="16 names in loras") as caught:
        link(item, loras / "m.pt")
    assert "0.pt" in caught.value.details["names"]


def test_the_same_bytes_may_have_the_name(item, tmp_path):
    """They are not ours, and stay."""
    target = tmp_path / "m.pt"
    target.write_bytes(BODY)
    inode = target.stat().st_ino

    assert not link(item, target)
    assert target.stat().st_ino == inode


@pytest.mark.parametrize("body", [BODY[:-1] + b"y", BODY[:-1], None])
def test_other_bytes_keep_their_name(item, tmp_path, body):
    """The engine may have loaded them by it; a folder is no file either."""
    target = tmp_path / "m.pt"
    if body is None:
        target.mkdir()
    else:
        target.write_bytes(body)

    with pytest.raises(NameTaken) as caught:
        link(item, target)

    assert caught.value.status == 409
    assert caught.value.hint == "give another `filename`"
    assert body is None or target.read_bytes() == body


def test_a_link_that_leads_nowhere_is_replaced(item, tmp_path):
    """The engine lists it, and cannot load it."""
    target = tmp_path / "m.pt"
    target.symlink_to(tmp_path / "gone")

    assert link(item, target)
    assert target.read_bytes() == BODY
    assert not target.is_symlink()


def test_a_folder_that_cannot_be_made_is_told(item, tmp_path):
    """As a fault of the platform."""
    (tmp_path / "models").write_text("a file")

    with pytest.raises(InternalFault, match=r"m\.pt cannot be put into models"):
        link(item, tmp_path / "models" / "m.pt")


def test_a_name_is_taken_in_all_folders_that_are_searched_together(item, tmp_path):
    """A second file of that name would stand before the first, or behind it."""
    a, b = tmp_path / "a", tmp_path / "b"
    b.mkdir()
    assert taken_elsewhere((a, b), a / "m.pt", item.path) is None
    (b / "m.pt").write_bytes(BODY)
    assert taken_elsewhere((a, b), a / "m.pt", item.path) == b / "m.pt"
    assert taken_elsewhere((a, b), b / "m.pt", item.path) is None
    for other in (b"y" * len(BODY), b"short"):
        (b / "m.pt").write_bytes(other)
        with pytest.raises(NameTaken, match=r"b/m\.pt is there already"):
            taken_elsewhere((a, b), a / "m.pt", item.path)
