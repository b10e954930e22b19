"""What the doctor tells of model files."""

from __future__ import annotations

import pytest

from handler.settings import Settings
from local_server.cli.doctor_files import file_findings, meant_folder
from local_server.cli.model_map import model_map

KNOWN = ("checkpoints", "embeddings", "loras", "text_encoders", "upscale_models", "vae")


@pytest.fixture
def examined(tmp_path):
    """Examine folders of our own with the embedded engine; topic -> texts."""
    (tmp_path / "models").mkdir()

    def examine(**env):
        env = {"ENGINE": "embedded", "MODEL_DIR": str(tmp_path / "models"), **env}
        found = model_map(Settings.from_env(env), ())
        files = [file for name in found.folders.names for file in found.files(name)]
        told = {}
        for finding in file_findings(found, files):
            told.setdefault(finding.topic, []).append(f"{finding.level} {finding.text}")
        return told

    return examine


def put(path, content=b"12345"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_folder_with_models_that_nobody_searches_is_told_once_with_their_place(
    examined, tmp_path
):
    """The most frequent of all complaints."""
    root = tmp_path / "vol"
    put(root / "loras" / "seen.safetensors")
    put(root / "Stable-diffusion" / "a.safetensors")
    put(root / "Stable-diffusion" / "b.safetensors")
    put(root / "mine" / "c.safetensors")
    put(root / "loose.ckpt")
    put(root / "notes.txt")
    put(root / ".cache" / "x.safetensors")
    put(root / "venv" / "lib" / "x.pth")
    assert sorted(examined(MODEL_ROOTS=str(root))["not searched"]) == [
        f"warn {root}/Stable-diffusion: 2 model files; move them to {root}/checkpoints",
        (
            f"warn {root}/mine: 1 model file; move each to the folder of its kind, "
            f"as {root}/checkpoints"
        ),
        (
            f"warn {root}: 1 model file in no folder of their kind; move each, "
            f"as to {root}/checkpoints"
        ),
    ]


def test_the_look_for_models_has_an_end_in_what_it_tells(examined, tmp_path):
    """Ten are told, then how many more."""
    root = tmp_path / "vol"
    (root / "loras").mkdir(parents=True)
    for number in range(13):
        put(root / f"odd{number:02}" / "m.ckpt")
    texts = examined(MODEL_ROOTS=str(root))["not searched"]
    assert len(texts) == 11
    assert texts[-1] == "warn and 3 more"


def test_a_folder_that_comfyui_does_not_read_is_told_with_the_one_that_was_meant(
    examined, tmp_path
):
    """Its files do not count as models; a node pack's own folder is no slip."""
    models = tmp_path / "models"
    for name in "abc":
        put(models / "checkpoint" / f"{name}.safetensors")
    put(models / "ultralytics" / "bbox" / "face.pt")
    put(models / "notes" / "read.me")
    told = examined()["model files"]
    assert told == [
        "ok none in any folder that is searched",
        (
            f"warn {models}/checkpoint: 3 files, a folder that ComfyUI itself does not read, "
            "unless a node pack does; did you mean checkpoints?"
        ),
        (
            f"ok {models}/ultralytics: 1 file, a folder that ComfyUI itself does not read; "
            "a node pack may"
        ),
    ]


def test_such_a_folder_of_comfyui_itself_is_told_alike(examined, tmp_path):
    """Without a MODEL_DIR: files further down count with their folder."""
    home = tmp_path / "comfy"
    put(home / "main.py")
    put(home / "models" / "lora" / "style" / "a.safetensors")
    put(home / "models" / "lora" / "b.safetensors")
    told = examined(ENGINE="comfyui", MODEL_DIR="", COMFY_HOME=str(home))["model files"]
    assert told[1] == (
        f"warn {home}/models/lora: 2 files, a folder that ComfyUI itself does not read, "
        "unless a node pack does; did you mean loras?"
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("checkpoint", "checkpoints"),
        ("Stable-diffusion", "checkpoints"),
        ("ckpts", "checkpoints"),
        ("lora", "loras"),
        ("VAE", "vae"),
        ("Lycoris", "loras"),
        ("ESRGAN", "upscale_models"),
        ("ultralytics", None),
        ("codeformer_v2_faces", None),
    ],
)
def test_the_folder_that_was_meant_is_found(name, meant):
    """By its likeness, or by what other programs call it."""
    assert meant_folder(name, KNOWN) == meant


def test_of_two_files_of_one_name_the_hidden_one_is_told(examined, tmp_path):
    """Where they differ in size; the same by two roots is no matter."""
    first = put(tmp_path / "models" / "loras" / "a.safetensors", b"1")
    other = put(tmp_path / "vol" / "loras" / "a.safetensors", b"12")
    put(tmp_path / "models" / "loras" / "b.safetensors")
    put(tmp_path / "vol" / "loras" / "b.safetensors")
    put(tmp_path / "vol" / "vae" / "a.safetensors", b"123")
    assert examined(MODEL_ROOTS=str(tmp_path / "vol"))["same name"] == [
        f"warn {first} (1 B) is loaded, and hides {other} (2 B)"
    ]


def test_files_of_no_use_are_told(examined, tmp_path):
    """Links that lead nowhere, parts of files, and names that the engine does not list."""
    loras = tmp_path / "models" / "loras"
    loras.mkdir()
    (loras / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    part = put(loras / ".x.safetensors.0123.part")
    page = put(loras / "model.html")
    gguf = put(loras / "model.gguf")
    put(loras / "readme.txt")
    told = examined()
    assert told["dangling link"][0].startswith(f"warn {loras}/gone.safetensors: ")
    assert told["part of a file"][0].startswith(f"warn {part}: ")
    assert {text.partition(":")[0] for text in told["wrong suffix"]} == {
        f"warn {page}", f"warn {gguf}",
    }  # fmt: skip
    assert "none in any folder" in told["model files"][0]
