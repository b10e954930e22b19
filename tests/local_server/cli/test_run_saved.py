"""What `comfyfn run` tells of what it saved."""

from __future__ import annotations

from handler.engine.memory import PIXEL
from handler.records import Output
from handler.wire import Answer
from local_server.cli.run_saved import compare, save, tell
from local_server.remote.result import Saved


def test_outputs_get_new_names_where_theirs_are_taken(tmp_path, capsys):
    """Nothing of the user's is overwritten; texts are shown on stderr."""
    source = tmp_path / "source"
    source.write_bytes(PIXEL)

    def output(name, **fields):
        kind = "text" if "text" in fields else "image"
        return Output("2", "the title", kind, "x/y", name, 1, "00", **fields)

    files = [output("job_a.png", path=source), output("b.png", path=source)]
    answer = Answer("job", {}, [*files, output("t.txt", text="said")], {})
    for _ in range(3):
        save(answer, tmp_path / "new" / "out")
    shown = capsys.readouterr()

    names = sorted(path.name for path in (tmp_path / "new" / "out").iterdir())
    assert names == ["a-2.png", "a-3.png", "a.png", "b-2.png", "b-3.png", "b.png"]
    assert shown.out.split() == [
        str(tmp_path / "new" / "out" / n)
        for n in ("a.png", "b.png", "a-2.png", "b-2.png", "a-3.png", "b-3.png")
    ]
    assert shown.err == "the title: said\n" * 3


def test_what_is_stored_elsewhere_is_told_by_its_url(capsys):
    """A script gets a line for each output, a path or a URL."""
    tell(Saved({"filename": "a.png"}, url="s3://bucket/a.png"))
    shown = capsys.readouterr()
    assert shown.out == "s3://bucket/a.png\n"
    assert "a.png is stored" in shown.err


def test_a_second_run_is_compared(tmp_path, capsys):
    """The same, another, or nothing to compare with."""
    (tmp_path / "a.png").write_bytes(PIXEL)
    saved = [Saved({"node_id": "2", "filename": "a.png"}, path=tmp_path / "a.png")]

    compare([], saved)
    compare([{"sha256": "0" * 64}], saved)
    compare([{"text": "x"}], [Saved({"text": "x"})])
    assert capsys.readouterr().err.splitlines() == [
        "compared with nothing: the captured job has no hashes",
        "differs: 2 (a.png): other bytes (the pixels of then are not known)",
        "the same outputs as captured",
    ]
