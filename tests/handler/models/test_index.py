"""Notes beside objects, shared by workers, and what is looked up by them."""

from __future__ import annotations

import json
import os

from handler.models.index import Index
from handler.models.item import Item, Origin

URL = "https://u:p@host/m.pt?sig=s3cret"


def put(index, key, body=b"bytes", url=URL, **told):
    path = index.folder / f"{key}.pt"
    origin = Origin.of(url, public=True)
    item = Item(
        key=key, path=path, bytes=len(body), leaf="m.pt", protected=False,
        origins={origin.id: origin}, **told,
    )  # fmt: skip
    index.save(item)
    path.write_bytes(body)
    assert item.present()
    index.add(item)
    return item


def loaded(root):
    index = Index(root)
    index.load()
    return index


def test_what_was_noted_is_read_again(tmp_path):
    """By another process, with the time of its last use."""
    item = put(loaded(tmp_path), "url-a", sha256="ab" * 32, links={tmp_path / "l.pt"})
    os.utime(tmp_path / "objects" / "url-a.json", (7, 7))

    (again,) = loaded(tmp_path)

    assert (again.path, again.origins, again.links) == (item.path, item.origins, item.links)
    assert again.last_use == 7
    assert again.inode == item.inode
    text = (tmp_path / "objects" / "url-a.json").read_text()
    assert "s3cret" not in text
    assert "u:p" not in text


def test_items_are_found_in_every_way(tmp_path):
    """By URL, content, and any link to the file."""
    index = loaded(tmp_path)
    item = put(index, "url-a", sha256="ab" * 32)
    os.link(item.path, tmp_path / "hard.pt")
    (tmp_path / "soft.pt").symlink_to(item.path)
    (tmp_path / "other.pt").write_bytes(b"bytes")

    assert index.by_url("https://host/m.pt?sig=s3cret") is item
    assert index.by_url("https://host/m.pt") is None
    assert index.by_sha256("ab" * 32) is item
    assert index.by_file(tmp_path / "hard.pt") is item
    assert index.by_file(tmp_path / "soft.pt") is item
    assert index.by_file(tmp_path / "other.pt") is None
    assert index.by_file(tmp_path / "none.pt") is None


def test_the_newest_item_of_a_url_counts_until_it_is_dropped(tmp_path):
    """Then the one before it."""
    index = loaded(tmp_path)
    old, new = put(index, "url-a", created=1.0), put(index, "url-b", created=2.0)
    assert index.by_url(URL) is new

    index.drop(new)

    assert index.by_url(URL) is old
    assert index.get("url-b") is None


def test_other_workers_objects_appear_and_their_links_are_kept(tmp_path):
    """Each one writes notes; none forgets what another wrote."""
    one, two = loaded(tmp_path), loaded(tmp_path)
    mine = put(one, "url-a")
    two.refresh()
    theirs = two.get("url-a")
    for index, item, name in ((one, mine, "1"), (two, theirs, "2")):
        item.links.add(tmp_path / name)
        index.save(item)

    (read,) = loaded(tmp_path)
    assert read.links == {tmp_path / "1", tmp_path / "2"}
    assert one.last_use(mine) >= theirs.created


def test_notes_of_another_make_are_passed_over(tmp_path):
    """And such as lead outside of the folder."""
    index = loaded(tmp_path)
    item = put(index, "url-a")
    note = index.note_path(item)
    told = json.loads(note.read_text())
    for change in ({"file": "../../etc/passwd"}, {"key": "url-b"}, {"bytes": 1}, {"urls": 3}):
        note.write_text(json.dumps(told | change))
        assert list(loaded(tmp_path)) == []
    note.write_text("{")
    assert list(loaded(tmp_path)) == []


def test_a_note_whose_object_is_long_gone_goes_with_its_links(tmp_path):
    """A young one may be of a worker that is just about to put the object there."""
    index = loaded(tmp_path)
    item = put(index, "url-a", links={tmp_path / "l.pt"})
    (tmp_path / "l.pt").symlink_to(item.path)
    item.path.unlink()
    note = index.note_path(item)
    os.utime(note)
    loaded(tmp_path)
    assert note.exists()
    os.utime(note, (1, 1))

    loaded(tmp_path)

    assert not note.exists()
    assert not (tmp_path / "l.pt").is_symlink()


def test_a_note_that_cannot_be_written_is_told_and_borne(tmp_path, caplog):
    """The store works on from memory."""
    index = loaded(tmp_path)
    item = put(index, "url-a")
    item.path.unlink()
    index.note_path(item).unlink()
    index.folder.rmdir()

    index.touch(item)

    assert "the note of url-a cannot be written" in caplog.text
