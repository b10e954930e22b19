"""What `modal run` does on the user's machine."""

from __future__ import annotations

import base64
import json

import pytest
from contract.file_server import file_server

from adapters.modal_local import follow, follow_fill, read_payload, save


def test_a_graph_and_a_payload_are_both_read(tmp_path):
    """A bare graph, as ComfyUI exports it, is put into a payload."""
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"1": {}}))
    assert read_payload(file) == {"prompt": {"1": {}}}
    for given in ({"prompt": {}}, {"workflow": "a", "input": {}}):
        file.write_text(json.dumps(given))
        assert read_payload(file) == given
    file.write_text("[]")
    with pytest.raises(SystemExit, match="neither"):
        read_payload(file)


def test_outputs_are_saved_under_their_own_names_alone(tmp_path, capsys):
    """Never outside of the folder; those in a storage are fetched where that can be."""
    with file_server() as files:
        url = files.put("/b.png", b"two", "image/png")
        one = base64.b64encode(b"one").decode()
        answer = {"filenames": ["../a.png", "b.png", "c"], "images": [one, url, "s3://b/c"]}
        saved = save(answer, tmp_path / "out")
    assert [path.read_bytes() for path in saved] == [b"one", b"two"]
    assert {path.parent for path in saved} == {tmp_path / "out"}
    assert "stored at s3://b/c" in capsys.readouterr().out


def test_a_stream_is_shown(tmp_path, capsys):
    """Phases, progress, the files; the status tells how it ended."""
    items = [
        {"type": "phase", "data": {"phase": "running"}},
        {"type": "progress", "data": {"overall_pct": 40.4}},
        {"type": "answer", "data": {"filenames": [], "images": []}},
    ]
    assert follow(items, tmp_path) == 0
    assert capsys.readouterr().out == "running\n40 %\n"
    failed = [{"type": "error", "data": {"code": "c", "error": "e", "hint": "h"}}]
    assert follow(failed, tmp_path) == 1
    assert capsys.readouterr().out == "c: e\nhint: h\n"


def test_a_fill_is_shown(capsys):
    """Megabytes and their speed; one model that cannot be had is a failure."""
    step = {"type": "progress", "model": "m", "bytes": 5e6, "total": 1e7, "bytes_per_s": 2e6}
    assert follow_fill([step, {"type": "there", "model": "m", "note": "there"}]) == 0
    assert "m: 5 of 10 MB, 2 MB/s" in capsys.readouterr().out
    assert follow_fill([{"type": "failed", "model": "m", "error": "e"}]) == 1
