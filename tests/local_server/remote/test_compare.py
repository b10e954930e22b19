"""Whether outputs are the same as another time."""

from __future__ import annotations

import io

from PIL import Image, PngImagePlugin

from local_server.remote.compare import differences, facts_of, pixels_of
from local_server.remote.result import Saved


def picture(path, color=(1, 2, 3), note=""):
    """Write a picture with a text beside its pixels."""
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", note)
    Image.new("RGB", (4, 4), color).save(path, pnginfo=info)
    return Saved({"node_id": "2", "title": "t", "filename": path.name, "kind": "image"}, path=path)


def test_the_same_pixels_are_the_same_picture(tmp_path):
    """Its file has the graph in it, which names each run."""
    first = facts_of(picture(tmp_path / "a.png", note="run 1"))
    second = picture(tmp_path / "b.png", note="run 2")
    other = picture(tmp_path / "c.png", color=(9, 9, 9))

    assert facts_of(second)["sha256"] != first["sha256"]
    assert differences([first], [second]) == []
    assert differences([first], [other]) == ["t (c.png): other pixels"]


def test_bytes_alone_tell_less(tmp_path):
    """An answer has the hash of the file only."""
    saved = picture(tmp_path / "a.png")
    known = facts_of(saved)
    del known["pixels"]
    assert differences([known], [saved]) == []
    known["sha256"] = "0" * 64
    assert differences([known], [saved]) == [
        "t (a.png): other bytes (the pixels of then are not known)"
    ]
    (tmp_path / "t.bin").write_bytes(b"no picture")
    file = Saved({"filename": "t.bin"}, path=tmp_path / "t.bin")
    assert differences([known], [file]) == ["output (t.bin): other bytes"]


def test_texts_and_counts_are_compared():
    """Nothing is compared where nothing is known."""
    one = Saved({"text": "a", "title": "t"})
    assert differences([{"text": "b"}], [one]) == ["t (None): another text"]
    assert differences([{"text": "a"}, {"text": "b"}], [one]) == ["1 outputs, and 2 then"]
    assert differences([], [one]) is None
    assert differences([{"filename": "a"}], [one]) is None


def test_all_frames_count_and_no_picture_has_none():
    """A second frame is another picture."""
    frames = [Image.new("RGB", (2, 2), (c, 0, 0)) for c in (0, 200)]
    hashes = []
    for more in ([], frames[1:]):
        buffer = io.BytesIO()
        frames[0].save(buffer, "GIF", save_all=True, append_images=more)
        hashes.append(pixels_of(buffer))
    assert None not in hashes
    assert hashes[0] != hashes[1]
    assert pixels_of(io.BytesIO(b"text")) is None
