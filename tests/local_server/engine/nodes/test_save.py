from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from local_server.engine.progress import InterruptError

if TYPE_CHECKING:
    from local_server.engine.folders import Folders

IMAGES = np.random.default_rng(3).random((3, 4, 5, 3), np.float32)
LEVELS = (IMAGES * 255).astype(np.uint8)
EXTRA = {"extra_pnginfo": {"workflow": {"id": 1}, "other": "x"}}
GRAPH = {"1": {"class_type": "SaveImage"}}


def test_each_picture_is_a_file(run: Any, folders: Folders) -> None:
    """Pixels are cut to 8 bits, names count on, and the reference has the subfolder."""
    shown = run("SaveImage", images=IMAGES, filename_prefix="a/b%batch_num%")

    assert shown.ui == {
        "images": [
            {"filename": f"b{i}_0000{i + 1}_.png", "subfolder": "a", "type": "output"}
            for i in range(3)
        ]
    }
    with Image.open(folders.output / "a" / "b1_00002_.png") as picture:
        assert np.array_equal(np.asarray(picture), LEVELS[1])


def test_values_outside_the_range_are_cut(run: Any, folders: Folders) -> None:
    """Below 0 is black, above 1 is white."""
    image = np.array([-3, 2], np.float32).reshape(1, 1, 2, 1).repeat(3, axis=3)
    run("SaveImage", images=image, filename_prefix="a")

    with Image.open(folders.output / "a_00001_.png") as picture:
        assert np.asarray(picture).tolist() == [[[0] * 3, [255] * 3]]


def test_a_file_carries_the_graph(run: Any, folders: Folders) -> None:
    """The graph and what the client adds are text chunks."""
    run("SaveImage", EXTRA, images=IMAGES[:1], filename_prefix="a")

    with Image.open(folders.output / "a_00001_.png") as picture:
        assert {name: json.loads(text) for name, text in picture.text.items()} == {
            "prompt": GRAPH,
            "workflow": {"id": 1},
            "other": "x",
        }


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("SaveImage", {"filename_prefix": "a"}),
        ("SaveAnimatedPNG", {"filename_prefix": "a", "fps": 5.0, "compress_level": 1}),
    ],
)
def test_metadata_can_be_left_out(
    run: Any, folders: Folders, name: str, inputs: dict[str, Any]
) -> None:
    """With --disable-metadata nothing is told."""
    run(name, {**EXTRA, "metadata": False}, images=IMAGES, **inputs)
    content = (folders.output / "a_00001_.png").read_bytes()

    assert b"tEXt" not in content
    assert b"workflow" not in content


def test_a_preview_lies_in_the_temp_folder(run: Any, folders: Folders) -> None:
    """Its name has a part that differs from engine to engine."""
    [told] = run("PreviewImage", images=IMAGES[:1]).ui["images"]

    assert told["type"] == "temp"
    assert told["filename"].startswith("ComfyUI_temp_")
    assert (folders.temp / told["filename"]).is_file()


def webp(run: Any, images: Any, **more: Any) -> Any:
    inputs = {"filename_prefix": "a", "fps": 4.0, "lossless": True, "quality": 80}
    return run("SaveAnimatedWEBP", EXTRA, images=images, method="fastest", **(inputs | more))


def test_an_animated_webp_has_all_frames(run: Any, folders: Folders) -> None:
    """Frames last as the rate says, and the graph is in the EXIF data."""
    shown = webp(run, IMAGES)

    assert shown.ui["animated"] == [True]
    assert shown.ui["images"][0]["filename"] == "a_00001_.webp"
    with Image.open(folders.output / "a_00001_.webp") as picture:
        assert picture.n_frames == 3
        exif = picture.getexif()
        assert exif[0x0110] == f"prompt:{json.dumps({'1': {'class_type': 'SaveAnimatedWEBP'}})}"
        assert exif[0x010F] == 'workflow:{"id": 1}'
        assert exif[0x010E] == 'other:"x"'
        picture.seek(2)
        picture.load()
        assert picture.info["duration"] == 250
        assert np.array_equal(np.asarray(picture.convert("RGB")), LEVELS[2])


def test_a_webp_of_one_frame_is_not_animated(run: Any) -> None:
    """It says so."""
    assert webp(run, IMAGES[:1]).ui["animated"] == [False]


def test_an_animated_png_has_all_frames(run: Any, folders: Folders) -> None:
    """The graph is in chunks of its own kind."""
    inputs = {"filename_prefix": "a", "fps": 10.0, "compress_level": 4}
    shown = run("SaveAnimatedPNG", EXTRA, images=IMAGES, **inputs)

    assert shown.ui["animated"] == [True]
    content = (folders.output / "a_00001_.png").read_bytes()
    assert b'comfworkflow\0{"id": 1}' in content
    with Image.open(folders.output / "a_00001_.png") as picture:
        assert picture.n_frames == 3
        picture.seek(1)
        assert np.array_equal(np.asarray(picture.convert("RGB")), LEVELS[1])


def test_pictures_for_the_websocket_can_be_interrupted(run: Any) -> None:
    """Each picture is a step; the frames are in test_replay.py."""
    from local_server.engine.progress import Interruption, Progress, Reporter
    from local_server.engine.sockets import Sockets

    interruption = Interruption()
    reporter = Reporter(Progress(Sockets(dict, {}), "p"), interruption, "1")
    assert run("SaveImageWebsocket", {"reporter": reporter}, images=IMAGES) == ()
    interruption.ask()

    with pytest.raises(InterruptError):
        run("SaveImageWebsocket", {"reporter": reporter}, images=IMAGES)
