"""What a real engine told of its classes, and the graphs that it ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handler.graph.object_info import ObjectInfo

RECORDINGS = Path(__file__).parents[2] / "recordings"


@pytest.fixture(scope="session")
def raw():
    return json.loads((RECORDINGS / "object_info.json").read_bytes())


@pytest.fixture
def info(raw):
    return ObjectInfo(raw)


@pytest.fixture(scope="session")
def graphs():
    return {path.stem: json.loads(path.read_bytes()) for path in RECORDINGS.glob("graphs/*.json")}


@pytest.fixture(scope="session")
def posted():
    """Give the (graph, status) pairs of a recorded scenario."""

    def of(scenario):
        recording = json.loads((RECORDINGS / "transcripts" / f"{scenario}.json").read_bytes())
        return [
            (entry["request_body"]["prompt"], entry["status"])
            for entry in recording["http"]
            if entry["path"] == "/prompt" and isinstance(entry.get("request_body"), dict)
        ]

    return of


def pack(**classes):
    """Make classes of a node pack: `name={"required": {...}, ...}`."""
    return {
        name: {
            "input": {k: v for k, v in entry.items() if k in ("required", "optional", "hidden")},
            "output": entry.get("output", ["IMAGE"]),
            "output_node": entry.get("output_node", False),
            "display_name": entry.get("display_name", name),
            "python_module": entry.get("python_module", "custom_nodes.pack"),
        }
        for name, entry in classes.items()
    }


@pytest.fixture(scope="session")
def packs():
    """Give VideoHelperSuite's ways to declare files, and what other packs do."""
    video = ["webm", "mp4", "mkv", "gif", "mov"]
    return pack(
        VHS_LoadVideo={"required": {"video": [[]], "frame_rate": ["FLOAT", {"min": 0, "max": 60}]}},
        VHS_LoadVideoPath={"required": {"video": ["STRING", {"vhs_path_extensions": video}]}},
        VHS_LoadImages={"required": {"directory": [["3d", "sub"]]}},
        VHS_LoadImagesPath={"required": {"directory": ["STRING", {"vhs_path_extensions": []}]}},
        VHS_LoadImagePath={"required": {"image": ["STRING", {"vhs_path_extensions": ["png"]}]}},
        VHS_LoadAudio={
            "required": {"audio_file": ["STRING", {"vhs_path_extensions": ["wav", "mp3"]}]}
        },
        VHS_LoadAudioUpload={"required": {"audio": [["a.wav", "b.mp3"]]}},
        VHS_SelectLatest={
            "required": {"filename_prefix": ["STRING", {"vhs_path_extensions": []}]},
            "output": ["STRING"],
        },
        VHS_VideoCombine={
            "required": {
                "images": ["IMAGE"],
                "filename_prefix": ["STRING", {"default": "x"}],
                "save_output": ["BOOLEAN", {"default": True}],
                "format": [["image/gif", "video/h264-mp4"]],
            },
            "output_node": True,
        },
        Masks={"required": {"shape": [["circle.png", "square.png"]], "image": [["on", "off"]]}},
        FromUrl={"required": {"image": ["STRING", {"multiline": True}]}},
        FromPath={"required": {"image": ["STRING", {"default": "./input/example.png"}]}},
        Picker={"required": {"image": [[]], "model": [[]]}},
        Uploads={
            "required": {
                "clip_video": ["STRING", {"upload": True}],
                "mesh": ["COMBO", {"options": [], "upload": "file_upload"}],
                "cam": ["WEBCAM", {}],
            }
        },
        AnySwitch={
            "required": {"any": ["*"], "model": ["MODEL"], "later": ["COMFY_AUTOGROW_V3", {}]},
            "optional": {"hint": ["IMAGE"], "both": ["INT,FLOAT", {}], "kind": ["PIPE"]},
            "output": ["*"],
            "output_node": True,
        },
        Loop={"required": {}, "output": ["LATENT"]},
    )
