"""Media inputs of a graph."""

from __future__ import annotations

import pytest

from handler.graph.media_inputs import MediaInput, media_inputs
from handler.graph.object_info import ObjectInfo

URL = "https://x.test/a.png"
BASE64 = "iVBORw0KGgo" * 50


def one(info, class_type, **inputs):
    found = media_inputs({"7": {"class_type": class_type, "inputs": inputs}}, info)
    return [(item.input, item.wanted, item.is_directory, item.is_path) for item in found]


def test_an_input_is_told_with_its_node(info):
    """All that a message or a rewrite needs."""
    node = {"class_type": "LoadImage", "inputs": {"image": URL}, "_meta": {"title": "Photo"}}

    assert media_inputs({"7": node}, info) == [
        MediaInput("7", "LoadImage", "Photo", "image", "image", URL, False, "prompt.7.inputs.image")
    ]


@pytest.mark.parametrize("value", [URL, BASE64, "example.png", "sub/a.png [temp]", "/abs/a.png"])
def test_a_declared_upload_is_media_whatever_it_holds(info, value):
    """URL, base64, stored name and path are told apart by whoever fetches."""
    assert one(info, "LoadImage", image=value) == [("image", "image", False, False)]


@pytest.mark.parametrize(
    ("class_type", "name", "wanted"),
    [
        ("LoadImageMask", "image", "image"),
        ("LoadImageOutput", "image", "image"),
        ("LoadVideo", "file", "video"),
        ("LoadAudio", "audio", "audio"),
        ("Load3D", "model_file", "file"),
        ("WebcamCapture", "image", "image"),
    ],
)
def test_loaders_of_the_engine(info, class_type, name, wanted):
    """Each by its declaration."""
    assert one(info, class_type, **{name: URL}) == [(name, wanted, False, False)]


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("CLIPTextEncode", {"text": URL}),
        ("SaveImage", {"filename_prefix": URL}),
        ("ImageInvert", {"image": URL}),
        ("LoadImage", {"image": ["3", 0]}),
        ("LoadImage", {"image": ""}),
        ("LoadImage", {"image": None}),
        ("LoadImage", {"image": 5}),
        ("LoadImage", {"image": ["a.png", "b.png"]}),
        ("LoadImage", {"image": []}),
        ("LoadImage", {"extra": URL}),
        ("LoadVideo", {"video": URL}),
        ("KSampler", {"sampler_name": URL}),
        ("CheckpointLoaderSimple", {"ckpt_name": "https://x.test/a.safetensors"}),
        ("LoraLoader", {"lora_name": "https://x.test/a.safetensors"}),
        ("LoraLoader", {"lora_name": "https://x.test/download/5"}),
        ("NoSuchNode", {"image": URL}),
    ],
)
def test_what_is_no_media(info, class_type, inputs):
    """Prompts, links, models, undeclared inputs and unknown classes."""
    assert one(info, class_type, **inputs) == []


def test_an_empty_list_of_choices_leaves_it_to_the_name(info):
    """LoadLatent does not say that it takes files; a `.latent` does."""
    assert one(info, "LoadLatent", latent="https://x.test/a.latent?x=1") == [
        ("latent", "file", False, False)
    ]
    assert one(info, "LoadLatent", latent="a") == []
    assert one(info, "OpenAIInputFiles", file="a.pdf") == [("file", "file", False, False)]


@pytest.mark.parametrize(
    ("class_type", "name", "value", "expected"),
    [
        ("VHS_LoadVideo", "video", URL, ("video", False, False)),
        ("VHS_LoadVideo", "video", BASE64, ("video", False, False)),
        ("VHS_LoadVideoPath", "video", URL, ("video", False, True)),
        ("VHS_LoadImagePath", "image", URL, ("image", False, True)),
        ("VHS_LoadAudio", "audio_file", URL, ("audio", False, True)),
        ("VHS_LoadAudioUpload", "audio", URL, ("audio", False, False)),
        ("VHS_LoadImages", "directory", [URL, URL], ("image", True, False)),
        ("VHS_LoadImages", "directory", [URL], ("image", True, False)),
        ("VHS_LoadImagesPath", "directory", [URL, URL], ("image", True, True)),
        ("VHS_LoadImagesPath", "directory", "/some/where", ("image", True, True)),
        ("FromPath", "image", URL, ("image", False, True)),
        ("Picker", "image", BASE64, ("image", False, False)),
        ("Masks", "shape", URL, ("image", False, False)),
    ],
)
def test_loaders_of_packs(packs, class_type, name, value, expected):
    """VideoHelperSuite's, by extensions, by the contract's names, by the listed files."""
    assert one(ObjectInfo(packs), class_type, **{name: value}) == [(name, *expected)]


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("Masks", {"shape": "circle.png"}),
        ("Masks", {"image": URL}),
        ("FromUrl", {"image": URL}),
        ("Picker", {"model": BASE64}),
        ("VHS_LoadImages", {"directory": "sub"}),
        ("VHS_LoadImages", {"directory": ["3", 0]}),
        ("VHS_LoadImages", {"directory": ["a.png", ""]}),
        ("VHS_SelectLatest", {"filename_prefix": "output/a"}),
        ("VHS_VideoCombine", {"format": "video/h264-mp4"}),
    ],
)
def test_what_is_no_media_of_packs(packs, class_type, inputs):
    """Listed choices, texts that are URLs on purpose, folders that are there, links."""
    assert one(ObjectInfo(packs), class_type, **inputs) == []


def test_a_wrapped_value_is_unwrapped(info):
    """`__value__` may hold a text as well."""
    (item,) = media_inputs(
        {"1": {"class_type": "LoadImage", "inputs": {"image": {"__value__": URL}}}}, info
    )

    assert item.value == URL


def test_a_plain_text_counts_for_the_contracts_loaders(packs):
    """Old releases of VideoHelperSuite declare a path as any text."""
    info = ObjectInfo(packs)
    info.replace("VHS_LoadVideoPath", {"input": {"required": {"video": ["STRING", {}]}}})

    assert one(info, "VHS_LoadVideoPath", video=URL) == [("video", "video", False, True)]


def test_media_come_in_the_graphs_order(info, graphs):
    """Node by node, input by input; nodes that are none are passed over."""
    node = {"class_type": "LoadImage", "inputs": {"image": URL}}
    graph = {"9": node, "x": None, "2": {"inputs": {"image": URL}}, "1": node, "3": {}}

    assert [item.node_id for item in media_inputs(graph, info)] == ["9", "1"]
    assert [i.value for i in media_inputs(graphs["audio_from_wav"], info)] == ["tone.wav"]
