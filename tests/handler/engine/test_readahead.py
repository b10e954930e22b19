"""Models are read into memory while the engine boots."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from handler.engine.free_memory import reserve
from handler.engine.readahead import ReadAhead, names_in

BLOCK = 1 << 16
MUCH = 1 << 50


def put(path: Path, size: int = 5 * BLOCK + 7) -> Path:
    """Write a file and have nothing of it in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    drop(path)
    return path


def drop(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def reader(*bases: Path, room=lambda: MUCH, **given) -> ReadAhead:
    return ReadAhead({base: (base,) for base in bases}, room=room, block_bytes=BLOCK, **given)


def bring(ahead: ReadAhead, *names: str):
    ahead.add(names)
    assert ahead.wait(20)
    return ahead.report()


def test_names_are_those_of_model_files():
    """Anywhere in a graph, in order, once each; addresses are fetched, not found."""
    graph = {
        "1": {"class_type": "A", "inputs": {"ckpt_name": "sub/a.safetensors", "seed": 1}},
        "2": {
            "class_type": "B",
            "inputs": {"loras": ["b.ckpt", {"name": "c.gguf"}], "x": ["1", 0]},
        },
        "3": {"class_type": "C", "inputs": {"again": "sub/a.safetensors", "image": "x.png"}},
        "4": {"class_type": "D", "inputs": {"url": "https://h/x.safetensors", "text": "a boat"}},
    }
    assert names_in({"prompt": graph}) == ["sub/a.safetensors", "b.ckpt", "c.gguf"]
    assert names_in(None) == []


def test_a_file_is_read_and_the_report_says_so(tmp_path):
    """In any folder of models, by a name with subfolders; sizes by root."""
    path = put(tmp_path / "checkpoints" / "sub" / "a.safetensors")
    told = bring(reader(tmp_path), "sub/a.safetensors")["roots"][str(tmp_path)]

    assert told["bytes"] + told["resident_bytes"] == path.stat().st_size
    assert told["no_memory_bytes"] == 0
    if told["bytes"]:
        assert told["seconds"] >= 0


@pytest.mark.parametrize("name", ["vae/x.pt", "vae/deep/x.pt"])
def test_a_name_may_begin_with_its_folders(tmp_path, name):
    """As a manifest's `preload` may have it."""
    put(tmp_path / name, BLOCK)
    told = bring(reader(tmp_path), name)

    assert told["not_found"] == []
    assert told["roots"].keys() == {str(tmp_path)}


def test_what_is_in_memory_is_not_read(tmp_path):
    """A warm start pays for a few samples."""
    path = put(tmp_path / "vae" / "a.pt")
    path.read_bytes()
    told = bring(reader(tmp_path), "a.pt")["roots"][str(tmp_path)]

    assert told["resident_bytes"] == path.stat().st_size
    assert (told["bytes"], told["mb_per_s"]) == (0, None)


def test_what_memory_has_no_room_for_is_left(tmp_path):
    """The first part of the first file is what is needed first."""
    path = put(tmp_path / "vae" / "a.pt", 10 * BLOCK)
    put(tmp_path / "vae" / "b.pt", BLOCK)
    ahead = reader(tmp_path, room=lambda: reserve() + 4 * BLOCK)
    told = bring(ahead, "a.pt", "b.pt")["roots"][str(tmp_path)]

    assert told["bytes"] + told["resident_bytes"] == 4 * BLOCK
    assert told["no_memory_bytes"] == path.stat().st_size - 4 * BLOCK + BLOCK


def test_where_memory_is_unknown_all_is_read(tmp_path):
    """Another system than Linux tells nothing."""
    put(tmp_path / "vae" / "a.pt")
    told = bring(reader(tmp_path, room=lambda: None), "a.pt")["roots"][str(tmp_path)]
    assert told["no_memory_bytes"] == 0


def test_a_name_that_is_nowhere_is_told(tmp_path):
    """Names that lead outside are looked for nowhere."""
    put(tmp_path / "secret.pt")
    (tmp_path / "roots" / "vae").mkdir(parents=True)
    told = bring(
        reader(tmp_path / "roots", tmp_path / "none"),
        "no.pt",
        "../../secret.pt",
        "/etc/x.pt",
        "\0.pt",
    )
    assert told == {"roots": {}, "not_found": ["no.pt", "../../secret.pt", "/etc/x.pt", "\0.pt"]}


def test_the_first_root_of_a_folder_wins(tmp_path):
    """As in the engine; in another folder the name may be another model, so both are read."""
    first = put(tmp_path / "a" / "vae" / "x.pt", BLOCK)
    put(tmp_path / "b" / "vae" / "x.pt", BLOCK)
    other = put(tmp_path / "b" / "loras" / "x.pt", 2 * BLOCK)
    roots = bring(reader(tmp_path / "a", tmp_path / "b"), "x.pt")["roots"]

    sizes = {Path(root).name: t["bytes"] + t["resident_bytes"] for root, t in roots.items()}
    assert sizes == {"a": first.stat().st_size, "b": other.stat().st_size}


def test_one_file_by_two_names_is_read_once(tmp_path):
    """Links of the cache into the folders are the same bytes; a name is looked for once."""
    path = put(tmp_path / "vae" / "x.pt", BLOCK)
    (tmp_path / "loras").mkdir()
    os.link(path, tmp_path / "loras" / "y.pt")
    ahead = reader(tmp_path)
    bring(ahead, "x.pt", "y.pt")
    told = bring(ahead, "x.pt")["roots"][str(tmp_path)]

    assert told["bytes"] + told["resident_bytes"] == BLOCK


def test_after_the_stop_nothing_is_begun(tmp_path):
    """The warmup is over: what was not read by then is of no use."""
    put(tmp_path / "vae" / "x.pt")
    ahead = reader(tmp_path)
    ahead.stop()

    assert bring(ahead, "x.pt") == {"roots": {}, "not_found": []}


def test_a_stop_ends_what_is_under_way(tmp_path):
    """Between two blocks."""
    path = put(tmp_path / "vae" / "x.pt", 200 * BLOCK)
    gate = threading.Event()
    ahead: ReadAhead

    def room() -> int:
        # Asked once before the first block and then every few of them.
        if gate.is_set():
            ahead.stop()
        gate.set()
        return MUCH

    ahead = reader(tmp_path, room=room, readers=1)
    told = bring(ahead, "x.pt")["roots"][str(tmp_path)]

    assert told["bytes"] + told["resident_bytes"] < path.stat().st_size


def test_a_failure_is_told_to_the_log_alone(tmp_path, caplog):
    """The boot goes on without."""

    def room() -> int:
        raise ValueError("odd")

    put(tmp_path / "vae" / "x.pt")
    bring(reader(tmp_path, room=room), "x.pt")

    assert "not read ahead" in caplog.text


def test_a_file_that_cannot_be_read_is_passed_over(tmp_path):
    """The engine will tell of it; the others are read."""
    path = put(tmp_path / "vae" / "a.pt", BLOCK)
    gone = put(tmp_path / "vae" / "b.pt", BLOCK)

    def room() -> int:
        gone.unlink(missing_ok=True)  # between the search and the reading
        return MUCH

    told = bring(reader(tmp_path, room=room), "b.pt", "a.pt")["roots"][str(tmp_path)]
    assert told["bytes"] + told["resident_bytes"] == path.stat().st_size


@pytest.mark.parametrize("size", [0, 1])
def test_tiny_files_are_no_trouble(tmp_path, size):
    """A placeholder is a file, too."""
    put(tmp_path / "vae" / "x.pt", size)
    told = bring(reader(tmp_path), "x.pt")

    assert told["not_found"] == []
