"""Where models are looked for."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import yaml

from handler.engine.roots import (
    ModelRoot,
    Registry,
    answers,
    candidates,
    paths_config,
    reading_places,
    registry_of,
    scan,
    survey,
)

USUAL = Registry()


def folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def test_the_registry_is_comfyuis_own():
    """Names with their folders below `models/`, the one of that name first; no node packs."""
    found = registry_of(
        {
            "models_dir": "/c/models",
            "folders": {
                "diffusion_models": [["/c/models/unet", "/c/models/diffusion_models"], [".pt"]],
                "custom_nodes": [["/c/custom_nodes"], []],
                "mine": [["/volume/whatever"], []],
                "loras": [["/c/models/loras", "/volume/lora"], []],
            },
        }
    )
    assert found.places == {
        "diffusion_models": ("diffusion_models", "unet"),
        "mine": ("mine",),
        "loras": ("loras",),
    }
    assert Path("/volume/lora") in found.paths
    assert found.folders == {"diffusion_models", "unet", "mine", "loras"}


def test_the_roots_are_named_in_the_order_of_the_search(tmp_path):
    """MODEL_DIR, MODEL_ROOTS, then the platforms' volumes that are there; each once."""
    volume = folder(tmp_path / "volume")
    own = Path("/c/models")
    found = candidates(
        Path("/m"), own, [Path("/r"), volume, own], [volume, tmp_path / "none", Path("/no/parent")]
    )

    assert [(root.path, root.own) for root in found] == [
        (Path("/m"), True),
        (Path("/r"), False),
        (volume, False),
    ]
    assert candidates(own, own, [], []) == []
    assert candidates(None, None, [], []) == []


def test_a_volume_may_hold_models_in_a_folder_or_at_its_top(tmp_path):
    """root/models/x before root/x; with every folder of a name."""
    inner = folder(tmp_path / "models" / "checkpoints")
    outer = folder(tmp_path / "checkpoints")
    clip = folder(tmp_path / "clip")
    adapter = folder(tmp_path / "models" / "t2i_adapter")
    found = scan(ModelRoot(tmp_path), USUAL)

    assert found.problem is None
    assert found.folders == {
        "checkpoints": (inner, outer),
        "text_encoders": (clip,),
        "controlnet": (adapter,),
    }


def test_folders_of_node_packs_are_known_below_models_only(tmp_path):
    """At a volume's top there may be anything."""
    pack = folder(tmp_path / "models" / "ipadapter")
    for other in ("notes", "ipadapter", "models/custom_nodes", "models/.git", "models/models"):
        folder(tmp_path / other)

    assert scan(ModelRoot(tmp_path), USUAL).folders == {"ipadapter": (pack,)}


def test_model_dir_gets_every_folder_and_is_a_folder_of_models_itself(tmp_path):
    """What is missing is made; a node pack's folder there counts, too."""
    pack = folder(tmp_path / "sams")
    nested = folder(tmp_path / "models" / "vae")
    found = scan(ModelRoot(tmp_path, own=True), USUAL)

    assert all((tmp_path / name).is_dir() for name in USUAL.folders)
    assert found.folders["sams"] == (pack,)
    assert found.folders["vae"] == (tmp_path / "vae", nested)
    assert found.folders["text_encoders"] == (tmp_path / "text_encoders", tmp_path / "clip")
    assert "models" not in found.folders


def test_nothing_is_made_on_a_volume(tmp_path):
    """Whoever mounts it decides what is there."""
    scan(ModelRoot(tmp_path), USUAL)
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_read_is_told(tmp_path):
    """Missing, or no folder at all."""
    (tmp_path / "file").touch()

    assert scan(ModelRoot(tmp_path / "none"), USUAL).problem == "No such file or directory"
    assert scan(ModelRoot(tmp_path / "file"), USUAL).problem == "Not a directory"
    (tmp_path / "checkpoints").touch()
    assert scan(ModelRoot(tmp_path), USUAL).folders == {}


def test_a_volume_with_very_much_in_it_is_searched_all_the_same(tmp_path):
    """Its top is looked into by name."""
    for number in range(2100):
        (tmp_path / f"a{number}").touch()
    vae = folder(tmp_path / "vae")

    assert scan(ModelRoot(tmp_path), USUAL).folders == {"vae": (vae,)}


def test_a_folder_reached_by_two_ways_is_searched_once(tmp_path):
    """A volume is often mounted or linked a second time, and ComfyUI may lie on it."""
    own = folder(tmp_path / "comfy" / "models" / "vae")
    loras = folder(tmp_path / "volume" / "loras")
    (tmp_path / "link").symlink_to(tmp_path / "volume")
    roots = [ModelRoot(tmp_path / name) for name in ("volume", "link", "comfy")]
    first, second, third = survey(roots, Registry(paths=(own,)))

    assert first.folders == {"loras": (loras,)}
    assert second.folders == third.folders == {}


def test_a_root_that_does_not_answer_is_left_out(tmp_path):
    """A dead network mount must not hold the start, nor be given to the engine."""
    os.mkfifo(tmp_path / "hangs")  # opening it waits for somebody to write
    begun = threading.Event()

    def hang() -> str:
        begun.set()
        return (tmp_path / "hangs").read_text()

    assert answers([lambda: "here", hang], 0.2) == ["here", None]
    assert begun.is_set()
    (tmp_path / "hangs").write_text("")  # let it go


def test_a_fault_of_a_look_is_no_answer(caplog):
    """The others count."""

    def fail() -> str:
        raise ValueError("odd")

    assert answers([fail, lambda: "here"], 5) == [None, "here"]
    assert "odd" in caplog.text


def test_the_survey_says_what_a_late_root_is(tmp_path, caplog):
    """No root is waited for longer than the limit."""
    go = threading.Event()

    def look(root, registry):
        go.wait(20)
        return scan(root, registry)

    (found,) = survey([ModelRoot(tmp_path)], USUAL, limit_s=0.01, look=look)
    go.set()

    assert found.problem is not None
    assert "did not answer" in found.problem
    assert str(tmp_path) in caplog.text


@pytest.mark.parametrize("name", ["volume", 'odd "name": #1', "$HOME ~ ä 😀 \x7f\x85", "\udcff"])
def test_the_file_for_comfyui_quotes_any_path(tmp_path, name):
    """It is YAML, and every path is one value."""
    root = ModelRoot(Path("/x") / name, folders={"loras": (Path("/x") / name / "loras",)})
    text = paths_config([root])

    assert yaml.safe_load(text) == {
        "comfyfn": {"is_default": False, "loras": f"/x/{name}/loras"},
    }
    assert text.isascii()


def test_the_file_keeps_the_order_of_the_search():
    """ComfyUI puts each default before those it has, so they are told backwards."""
    first = ModelRoot(Path("/m"), own=True, folders={"vae": (Path("/m/a"), Path("/m/b"))})
    second = ModelRoot(Path("/v"), folders={"vae": (Path("/v/a"), Path("/v/b"))})
    empty = ModelRoot(Path("/e"))

    assert yaml.safe_load(paths_config([first, empty, second])) == {
        "comfyfn": {"is_default": True, "vae": "/m/b\n/m/a"},
        "comfyfn_1": {"is_default": False, "vae": "/v/a\n/v/b"},
    }
    assert paths_config([empty]) is None


def test_a_line_break_in_a_path_cannot_be_told():
    """It would be two folders."""
    root = ModelRoot(Path("/x\ny"), folders={"vae": (Path("/x\ny/vae"),)})
    assert paths_config([root]) is None


def test_files_are_read_ahead_in_the_order_of_the_search():
    """MODEL_DIR, the engine's own, then the others with both of their levels."""
    roots = [ModelRoot(Path("/m"), own=True), ModelRoot(Path("/v"))]
    found = reading_places(roots, Path("/c/models"))

    assert list(found.items()) == [
        (Path("/m"), (Path("/m"), Path("/m/models"))),
        (Path("/c/models"), (Path("/c/models"),)),
        (Path("/v"), (Path("/v/models"), Path("/v"))),
    ]
    assert reading_places([], None) == {}


def test_the_file_may_name_a_further_folder_of_node_packs():
    """Also where no models are told; ComfyUI's own folder of packs stays the first."""
    assert yaml.safe_load(paths_config([], Path("/p"))) == {"comfyfn_packs": {"custom_nodes": "/p"}}
    root = ModelRoot(Path("/m"), folders={"vae": (Path("/m/vae"),)})
    assert list(yaml.safe_load(paths_config([root], Path("/p")))) == ["comfyfn", "comfyfn_packs"]
