"""What passes between the stages."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from handler.records import MediaInfo, Output

OUTPUT = Output(
    node_id="9",
    title="t",
    kind="image",
    mime="image/png",
    filename="a.png",
    bytes=3,
    sha256="ab",
    path=Path("secret/place/a.png"),
    width=1,
    height=2,
    temp=True,
)


def test_the_public_entry_tells_no_path_of_ours():
    """Callers get what the file is, not where it lay."""
    entry = OUTPUT.public()

    assert set(entry) == {
        *("node_id", "title", "kind", "mime", "filename", "bytes", "sha256"),
        *("width", "height", "duration_s", "text"),
    }
    assert "secret" not in str(entry)


@pytest.mark.parametrize("record", [OUTPUT, MediaInfo("image/png", "image")])
def test_records_are_frozen(record):
    """No stage edits another's work."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.mime = "text/plain"


def test_what_lasts_has_places_in_place_of_links():
    """A link lets anybody in, and dies before the record does; a URL that is none stays."""
    link = {"target": "s3", "url": "https://b/a?sig=x", "location": "s3://b/a", "expires_at": 60}
    plain = {"target": "volume", "url": "/mnt/a", "location": "/mnt/a"}
    linked = dataclasses.replace(OUTPUT, url=link["url"], uploads=(link, plain))

    kept = linked.lasting()

    assert kept.url == "s3://b/a"
    assert kept.uploads == ({"target": "s3", "url": "s3://b/a", "location": "s3://b/a"}, plain)
    assert linked.url == link["url"]
    for same in (OUTPUT, dataclasses.replace(OUTPUT, url="/mnt/a", uploads=(plain,))):
        assert same.lasting() is same
