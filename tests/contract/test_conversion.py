"""`convert_output`: the file is of the format asked for, every option does something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from contract.graphs import (
    animation,
    assert_same_pixels,
    data_uri,
    empty,
    encoded,
    files,
    fine,
    inverted,
    negative,
    noise,
    photo,
    picture_of,
    plain,
    recorded,
    refused,
    save,
)
from PIL import Image

if TYPE_CHECKING:
    from live import LiveServer

PILLOW_FORMAT = {"jpeg": "JPEG", "jpg": "JPEG", "webp": "WEBP", "avif": "AVIF", "png": "PNG"}
MIME = {**{name: f"image/{name}" for name in PILLOW_FORMAT}, "jpg": "image/jpeg"}
# What ImageAddNoise draws differs from engine to engine; sent along, it is the same on both.
DETAIL = photo(24, 16).resize((96, 64), Image.Resampling.BICUBIC)


def converted(server: LiveServer, form: str, **options: Any) -> bytes:
    """Run a picture through a graph and a conversion."""
    wanted = {"format": form, "options": options} if options else {"format": form}
    graph = inverted(data_uri(encoded(DETAIL)))
    (content,) = files(fine(server.prompt(graph, convert_output=wanted)))
    return content


def distance(content: bytes) -> float:
    """Give the mean difference per channel from what went into the conversion."""
    found, exact = picture_of(content).convert("RGB").tobytes(), negative(DETAIL).tobytes()
    return sum(abs(a - b) for a, b in zip(found, exact, strict=True)) / len(exact)


@pytest.mark.parametrize("form", PILLOW_FORMAT)
def test_the_file_is_of_the_format(server: LiveServer, form: str) -> None:
    """Name, type, size, hash and content of a converted output fit each other."""
    graph = inverted(data_uri(encoded(DETAIL)))

    body = fine(server.prompt(graph, id="conv", convert_output={"format": form}))

    (content,), (output,) = files(body), body["outputs"]
    picture = picture_of(content)
    assert picture.format == PILLOW_FORMAT[form]
    assert picture.size == DETAIL.size
    assert body["filenames"] == [f"conv_inv_00001_.{form}"]
    assert output["filename"] == body["filenames"][0]
    assert (output["mime"], output["kind"]) == (MIME[form], "image")
    assert (output["width"], output["height"]) == DETAIL.size
    assert output["bytes"] == len(content)
    assert body["convert_output"]["format"] == form
    assert distance(content) < 12


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("jpeg", {"quality": 20}),
    ("jpeg", {"quality": 95}),
    ("jpeg", {"progressive": True}),
    ("jpeg", {"chromaSubsampling": "4:4:4"}),
    ("jpeg", {"optimizeCoding": False}),
    ("jpeg", {"optimiseCoding": False}),
    ("jpeg", {"mozjpeg": True}),
    ("jpeg", {"trellisQuantisation": True}),
    ("jpeg", {"trellisQuantization": True}),
    ("jpeg", {"overshootDeringing": True}),
    ("jpeg", {"optimizeScans": True}),
    ("jpeg", {"quantisationTable": 3}),
    ("jpeg", {"quantizationTable": 5}),
    ("jpg", {"quality": 30}),
    ("webp", {"quality": 20}),
    ("webp", {"lossless": True}),
    ("webp", {"nearLossless": True}),
    ("webp", {"smartSubsample": True}),
    ("webp", {"preset": "text"}),
    ("webp", {"effort": 0}),
    ("avif", {"quality": 20}),
    ("avif", {"lossless": True}),
    ("avif", {"effort": 0}),
    ("avif", {"chromaSubsampling": "4:2:0"}),
    ("png", {"compressionLevel": 0}),
    ("png", {"palette": True}),
    ("png", {"quality": 10}),
    ("png", {"effort": 1, "palette": True}),
    ("png", {"progressive": True}),
]


@pytest.mark.parametrize(("form", "options"), OPTIONS, ids=str)
def test_every_option_changes_the_bytes(
    server: LiveServer, form: str, options: dict[str, Any]
) -> None:
    """An option makes another file than the defaults do, of the same format and size."""
    content = converted(server, form, **options)

    picture = picture_of(content)
    assert content != converted(server, form)
    assert picture.format == PILLOW_FORMAT[form]
    assert picture.size == DETAIL.size


def test_jpeg_options_do_what_they_say(server: LiveServer) -> None:
    """Quality, progression, subsampling and MozJPEG show in the file itself."""
    normal = converted(server, "jpeg")
    fine_colours = picture_of(converted(server, "jpeg", chromaSubsampling="4:4:4"))

    assert len(converted(server, "jpeg", quality=20)) < len(normal)
    assert distance(converted(server, "jpeg", quality=100)) < distance(normal)
    assert not picture_of(normal).info.get("progressive")
    assert picture_of(converted(server, "jpeg", progressive=True)).info.get("progressive")
    # Sampling factors of the first component: 2x2 is 4:2:0, 1x1 is 4:4:4.
    assert picture_of(normal).layer[0][1:3] == (2, 2)  # type: ignore[attr-defined]
    assert fine_colours.layer[0][1:3] == (1, 1)  # type: ignore[attr-defined]
    moz = converted(server, "jpeg", mozjpeg=True)
    assert picture_of(moz).info.get("progressive")
    assert len(moz) < len(converted(server, "jpeg", quantisationTable=3))


@pytest.mark.parametrize("form", ["webp", "avif", "png"])
def test_lossless_is_lossless(server: LiveServer, form: str) -> None:
    """A lossless file has the very pixels of the result."""
    options = {} if form == "png" else {"lossless": True}

    content = converted(server, form, **options)

    assert_same_pixels(picture_of(content), negative(DETAIL))


def test_webp_and_png_options_do_what_they_say(server: LiveServer) -> None:
    """Effort and compression level cost or save bytes, a palette is one."""
    assert len(converted(server, "webp", quality=10)) < len(converted(server, "webp"))
    assert picture_of(converted(server, "png", palette=True)).mode == "P"
    assert len(converted(server, "png", compressionLevel=0)) > len(converted(server, "png"))
    assert picture_of(converted(server, "png", progressive=True)).info.get("interlace") == 1


def test_alpha_quality_tells_where_there_is_alpha(server: LiveServer) -> None:
    """`alphaQuality` has an effect on a picture with transparency."""
    clear = DETAIL.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(DETAIL.size))
    load = {"class_type": "LoadImage", "inputs": {"image": data_uri(encoded(clear))}}
    joined = {"image": ["1", 0], "alpha": ["1", 1]}
    graph = {
        "1": load,
        "2": {"class_type": "JoinImageWithAlpha", "inputs": joined},
        "3": save("2"),
    }

    best, worst = (
        files(fine(server.prompt(graph, convert_output={"format": "webp", "options": options})))[0]
        for options in ({"alphaQuality": 100}, {"alphaQuality": 0})
    )

    assert picture_of(best).mode == "RGBA"
    assert len(worst) < len(best)


def test_options_are_echoed_with_their_defaults(server: LiveServer) -> None:
    """The answer shows what the conversion was done with."""
    wanted = {"format": "webp", "options": {"quality": 33}}

    body = fine(server.prompt(plain(), convert_output=wanted))

    assert body["convert_output"] == {
        "format": "webp",
        "options": {
            "quality": 33,
            "alphaQuality": 100,
            "lossless": False,
            "nearLossless": False,
            "smartSubsample": False,
            "preset": "default",
            "effort": 4,
        },
    }


@pytest.mark.parametrize("options", [None, {}])
def test_options_may_be_left_out(server: LiveServer, options: Any) -> None:
    """No options, null and an empty object are the defaults."""
    wanted = {"format": "jpeg", "options": options}

    fine(server.prompt(plain(), convert_output=wanted))


def test_every_picture_of_a_batch_is_converted(server: LiveServer) -> None:
    """All files of all nodes are converted, in the same order, each under its own name."""
    graph = {"1": empty(batch=3), "2": save("1", "a"), "3": save("1", "sub/b")}

    body = fine(server.prompt(graph, id="x", convert_output={"format": "webp"}))

    names = [f"x_{prefix}_{i:05}_.webp" for prefix in "ab" for i in (1, 2, 3)]
    assert body["filenames"] == names
    assert [picture_of(content).format for content in files(body)] == ["WEBP"] * 6


def test_an_animation_keeps_its_pictures(server: LiveServer) -> None:
    """An animated WebP converted to WebP has as many pictures, as long shown, and is smaller."""
    before = fine(server.prompt(animation(5)))
    wanted = {"format": "webp", "options": {"quality": 10}}
    after = fine(server.prompt(animation(5), convert_output=wanted))

    old, new = picture_of(files(before)[0]), picture_of(files(after)[0])
    assert old.n_frames == new.n_frames == 5  # type: ignore[attr-defined]
    assert after["outputs"][0]["duration_s"] == before["outputs"][0]["duration_s"] == 0.625
    assert after["outputs"][0]["bytes"] < before["outputs"][0]["bytes"]


@pytest.mark.parametrize("form", ["avif", "png"])
def test_an_animation_in_other_formats(server: LiveServer, form: str) -> None:
    """Formats that have animations keep it, with type and size told."""
    body = fine(server.prompt(animation(4), convert_output={"format": form}))

    picture = picture_of(files(body)[0])
    assert picture.format == PILLOW_FORMAT[form]
    assert picture.n_frames == 4  # type: ignore[attr-defined]
    assert (body["outputs"][0]["width"], body["outputs"][0]["height"]) == (32, 24)


@pytest.mark.parametrize("form", ["jpeg", "jpg"])
def test_an_animation_is_never_cut_down_to_a_still(server: LiveServer, form: str) -> None:
    """JPEG has no animation: the caller is told, not given the first picture."""
    answer = server.prompt(animation(), convert_output={"format": form})

    body = refused(answer, 422, "conversion_failed")
    assert form in body["error"]
    assert "anim" in body["error"]
    assert body["blame"] == "caller"


def test_texts_are_handed_on_untouched(server: LiveServer) -> None:
    """A text beside the pictures is as it was."""
    graph = {
        **plain(),
        "3": {"class_type": "PreviewAny", "inputs": {"source": "some words"}},
    }

    body = fine(server.prompt(graph, convert_output={"format": "webp"}))

    image, text = body["outputs"]
    assert image["mime"] == "image/webp"
    assert (text["kind"], text["text"]) == ("text", "some words")


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize("name", ["data.bin", "film.mp4", "scene.glb"])
def test_other_files_are_handed_on_untouched(server: LiveServer, name: str) -> None:
    """What is no picture keeps its name and its bytes."""
    inputs = {"name": name, "size_bytes": 300, "key": "3d", "filename_prefix": "it"}
    graph = {**plain(), "3": {"class_type": "TestFile", "inputs": inputs}}

    body = fine(server.prompt(graph, id="x", convert_output={"format": "jpeg"}))

    assert body["filenames"] == ["x_out_00001_.jpeg", f"x_it_00001_{name}"]
    assert files(body)[1] == bytes(300)


@pytest.mark.comfyui
@pytest.mark.parametrize("server", ["comfyui"], indirect=True)
def test_films_are_handed_on_untouched(server: LiveServer) -> None:
    """Films of a real ComfyUI stay films when pictures are to be converted."""
    body = fine(server.prompt(recorded("video"), convert_output={"format": "webp"}))

    assert [output["mime"] for output in body["outputs"]] == ["video/mp4", "video/webm"]


@pytest.mark.parametrize(
    ("wanted", "place"),
    [
        ({"format": "jpeg", "options": {"qualty": 80}}, "convert_output.options.qualty"),
        ({"format": "jpeg", "options": {"lossless": True}}, "convert_output.options.lossless"),
        ({"format": "webp", "options": {"mozjpeg": True}}, "convert_output.options.mozjpeg"),
        ({"format": "jpeg", "options": {"quality": 0}}, "convert_output.options.quality"),
        ({"format": "jpeg", "options": {"quality": 101}}, "convert_output.options.quality"),
        ({"format": "jpeg", "options": {"quality": "80"}}, "convert_output.options.quality"),
        ({"format": "jpeg", "options": {"progressive": 1}}, "convert_output.options.progressive"),
        (
            {"format": "jpeg", "options": {"chromaSubsampling": "4:1:1"}},
            "convert_output.options.chromaSubsampling",
        ),
        (
            {"format": "jpeg", "options": {"quantisationTable": 9}},
            "convert_output.options.quantisationTable",
        ),
        ({"format": "webp", "options": {"effort": 7}}, "convert_output.options.effort"),
        ({"format": "webp", "options": {"quality": 1.5}}, "convert_output.options.quality"),
        ({"format": "webp", "options": {"preset": "cat"}}, "convert_output.options.preset"),
        ({"format": "avif", "options": {"effort": 10}}, "convert_output.options.effort"),
        ({"format": "png", "options": {"compressionLevel": 10}}, "compressionLevel"),
        ({"format": "gif"}, "convert_output.format"),
        ({"format": "JPEG"}, "convert_output.format"),
        ({}, "convert_output.format"),
        ({"options": {"quality": 5}}, "convert_output.format"),
        ({"format": "jpeg", "quality": 80}, "convert_output.quality"),
        ("jpeg", "convert_output"),
        ([], "convert_output"),
    ],
    ids=str,
)
def test_options_that_do_not_exist_are_refused(
    strict_server: LiveServer, wanted: Any, place: str
) -> None:
    """An unknown option, or one out of range, is named; nothing runs with another in its place."""
    answer = strict_server.prompt(noise(), convert_output=wanted)

    body = refused(answer, 400, "invalid_payload")
    assert place in body["location"]
    assert place in body["details"][0]["location"]
    assert body["error"].startswith(body["location"])
    assert len(body["error"]) < 600


def test_a_misspelt_option_brings_the_right_one(strict_server: LiveServer) -> None:
    """The message says which option was perhaps meant."""
    wanted = {"format": "jpeg", "options": {"qualty": 80}}

    body = refused(strict_server.prompt(plain(), convert_output=wanted), 400, "invalid_payload")

    assert "quality" in body["error"]


def test_an_error_does_not_repeat_the_value(strict_server: LiveServer) -> None:
    """The value at fault may be a secret in the wrong place: it is not sent back."""
    wanted = {"format": "jpeg", "options": {"quality": "hidden-word"}}

    answer = strict_server.prompt(plain(), convert_output=wanted)

    assert answer.status_code == 400
    assert "hidden-word" not in answer.text
