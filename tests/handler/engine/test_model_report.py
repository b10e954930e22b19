"""What lies in the roots, and what of it the engine does not find."""

from __future__ import annotations

from pathlib import Path

from handler.engine import model_report as module
from handler.engine.model_report import in_words, model_report
from handler.engine.roots import ModelRoot


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_files_are_counted_by_folder_and_root(tmp_path):
    """Those that are no models, and folders without any, are not told."""
    for name in ("a/vae/1.safetensors", "a/vae/sub/2.CKPT", "b/vae/3.pt", "a/vae/readme.md"):
        put(tmp_path / name)
    (tmp_path / "a" / "loras").mkdir()
    searched = {
        "vae": [tmp_path / "a" / "vae", tmp_path / "b" / "vae"],
        "loras": [tmp_path / "a" / "loras"],
        "custom_nodes": [tmp_path / "a"],
    }
    found = model_report([ModelRoot(tmp_path / "a"), ModelRoot(tmp_path / "b")], searched)

    assert found == {
        "roots": [
            {"path": str(tmp_path / "a"), "models": {"vae": 2}},
            {"path": str(tmp_path / "b"), "models": {"vae": 1}},
        ],
        "not_searched": [],
        "complete": True,
    }


def test_roots_that_are_missing_are_told(tmp_path):
    """Unless the engine was told of them by somebody else."""
    put(tmp_path / "vae" / "1.safetensors")
    gone = ModelRoot(Path("/nowhere"), problem="it is not there")
    by_cmd = ModelRoot(tmp_path, problem="CMD starts the engine")

    assert model_report([gone, by_cmd], {"vae": [tmp_path / "vae"]})["roots"] == [
        {"path": "/nowhere", "problem": "it is not there"},
        {"path": str(tmp_path), "models": {"vae": 1}},
    ]
    assert model_report([by_cmd], {})["roots"] == [
        {"path": str(tmp_path), "problem": "CMD starts the engine"}
    ]


def test_a_model_outside_of_the_searched_folders_is_named(tmp_path):
    """With its place; down to three folders, hidden ones and packages left out."""
    seen = put(tmp_path / "models" / "vae" / "deep" / "seen.safetensors")
    lost = [put(tmp_path / name) for name in ("a.ckpt", "stuff/b.gguf", "x/y/z/c.safetensors")]
    for name in ("x/y/z/too_deep/d.pt", ".cache/e.pt", "venv/f.bin", "stuff/notes.txt"):
        put(tmp_path / name)
    found = model_report([ModelRoot(tmp_path)], {"vae": [seen.parent.parent]})

    assert found["not_searched"] == [str(path) for path in lost]
    assert in_words(found)[0].startswith(f"found {lost[0]}, but that folder is not searched")


def test_links_are_followed_and_loops_end(tmp_path):
    """ComfyUI follows them; a root that is a link to another has nothing that is not searched."""
    vae = put(tmp_path / "real" / "vae" / "1.safetensors").parent
    put(tmp_path / "elsewhere" / "2.safetensors")
    (vae / "linked").symlink_to(tmp_path / "elsewhere")
    (vae / "loop").symlink_to(vae)
    (vae / "dangling.pt").symlink_to(tmp_path / "gone")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = model_report(
        [ModelRoot(tmp_path / "real"), ModelRoot(tmp_path / "link")], {"vae": [vae]}
    )

    assert found["roots"][0]["models"] == {"vae": 2}
    assert found["not_searched"] == []


def test_a_look_is_bounded(tmp_path):
    """A volume may hold millions of files; the report says that it did not see them all."""
    for number in range(module.MOST_LOOKED_AT + 1):
        put(tmp_path / "many" / str(number))
    put(tmp_path / "zz" / "a.pt")
    found = model_report([ModelRoot(tmp_path)], {})

    assert found["complete"] is False
    assert found["not_searched"] == []


def test_many_lost_files_are_told_in_part(tmp_path):
    """A few show what is wrong."""
    for number in range(module.MOST_TOLD + 5):
        put(tmp_path / f"{number}.pt")

    assert len(model_report([ModelRoot(tmp_path)], {})["not_searched"]) == module.MOST_TOLD
