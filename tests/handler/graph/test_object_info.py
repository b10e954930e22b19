"""Parsing of `GET /object_info`."""

from __future__ import annotations

import random

import pytest

from handler.graph.object_info import ObjectInfo


def test_every_recorded_class_parses(info):
    """All classes of a real engine have a declaration, with its input names and outputs."""
    for name in info.classes:
        spec = info.node(name)

        assert spec is not None
        assert spec.class_type == name
        assert all(isinstance(output, str) for output in spec.outputs)


def test_custom_classes_are_known_by_their_module(info):
    """The engine ships one class in its folder of node packs."""
    assert [name for name in info.classes if info.node(name).custom] == ["SaveImageWebsocket"]


def test_a_class_is_parsed_once_and_only_when_asked_for(info):
    """The same object comes back, and the repr tells how many were parsed."""
    first = info.node("KSampler")

    assert info.node("KSampler") is first
    assert repr(info) == "<ObjectInfo 496 classes, 1 parsed>"


@pytest.mark.parametrize("name", ["NoSuchNode", "", None, 3, ["KSampler"], {}])
def test_what_is_no_class_has_no_declaration(info, name):
    """An unknown name, and what is no name at all, give None."""
    assert info.node(name) is None


def test_required_inputs_come_first_and_hidden_ones_not_at_all(info):
    """SaveImage has two inputs and two hidden ones, CLIPLoader an optional one at the end."""
    assert list(info.node("SaveImage").inputs) == ["images", "filename_prefix"]
    assert info.node("SaveImage").output_node
    assert [i.required for i in info.node("CLIPLoader").inputs.values()] == [True, True, False]


def test_numbers_keep_their_limits_exactly(info):
    """The seed's maximum of 2^64-1 stays an integer."""
    seed = info.node("KSampler").inputs["seed"]

    assert (seed.type, seed.minimum, seed.maximum, seed.default) == ("INT", 0, 2**64 - 1, 0)


@pytest.mark.parametrize(
    ("class_type", "name", "choices"),
    [
        ("CLIPLoader", "device", ("default", "cpu")),
        ("SaveVideo", "codec", ("auto", "h264")),
        ("LoadImageOutput", "image", None),
        ("LoraLoader", "lora_name", ()),
    ],
)
def test_choices_are_read_in_both_forms(info, class_type, name, choices):
    """A list in place of the type, and a COMBO with options; remote ones are not known."""
    spec = info.node(class_type).inputs[name]

    assert (spec.type, spec.choices) == ("COMBO", choices)


@pytest.mark.parametrize(
    ("class_type", "name", "upload"),
    [
        ("LoadImage", "image", "image"),
        ("LoadImageMask", "image", "image"),
        ("LoadImageMask", "channel", None),
        ("LoadImageOutput", "image", "image"),
        ("LoadVideo", "file", "video"),
        ("LoadAudio", "audio", "audio"),
        ("Load3D", "model_file", "file"),
        ("WebcamCapture", "image", "image"),
        ("RecordAudio", "audio", "audio"),
        ("CheckpointLoaderSimple", "ckpt_name", None),
        ("CheckpointLoader", "config_name", None),
        ("CLIPTextEncode", "text", None),
    ],
)
def test_file_inputs_are_known_by_their_declaration(info, class_type, name, upload):
    """Upload flags and recording widgets say the kind; models are no uploads."""
    spec = info.node(class_type).inputs[name]

    assert (spec.upload, spec.guessed, spec.is_path) == (upload, False, False)


@pytest.mark.parametrize(
    ("class_type", "name", "expected"),
    [
        ("VHS_LoadVideoPath", "video", ("video", False, True, False)),
        ("VHS_LoadImagesPath", "directory", ("image", False, True, True)),
        ("VHS_LoadImagePath", "image", ("image", False, True, False)),
        ("VHS_LoadAudio", "audio_file", ("audio", False, True, False)),
        ("VHS_LoadAudioUpload", "audio", ("audio", True, False, False)),
        ("VHS_SelectLatest", "filename_prefix", (None, False, True, False)),
        ("VHS_VideoCombine", "format", (None, False, False, False)),
        ("Masks", "shape", ("image", True, False, False)),
        ("FromUrl", "image", (None, False, False, False)),
        ("FromPath", "image", ("image", False, True, False)),
        ("Uploads", "clip_video", ("video", False, False, False)),
        ("Uploads", "mesh", ("file", False, False, False)),
    ],
)
def test_paths_and_lists_of_files_are_known(packs, class_type, name, expected):
    """VideoHelperSuite's paths, and choices that are all media files, are recognised."""
    spec = ObjectInfo(packs).node(class_type).inputs[name]

    assert (spec.upload, spec.guessed, spec.is_path, spec.is_directory) == expected


def test_types_of_other_makes_are_kept_as_they_are(packs):
    """Wildcards, unions, own types; an expanding input is marked."""
    inputs = ObjectInfo(packs).node("AnySwitch").inputs

    assert [i.type for i in inputs.values()] == [
        "*", "MODEL", "COMFY_AUTOGROW_V3", "IMAGE", "INT,FLOAT", "PIPE",
    ]  # fmt: skip
    assert [i.name for i in inputs.values() if i.dynamic] == ["later"]


def test_an_output_that_is_a_list_of_choices_is_a_combo():
    """Old classes give a list as the type of an output."""
    info = ObjectInfo({"A": {"output": [["a", "b"], "INT", 3]}})

    assert info.node("A").outputs == ("COMBO", "INT", "*")


@pytest.mark.parametrize("wrapped", [True, False])
def test_replace_takes_the_live_declaration(raw, wrapped):
    """After a refresh of one class its new choices count; the others stay parsed."""
    info = ObjectInfo(raw)
    assert info.node("VAELoader").inputs["vae_name"].choices == ("pixel_space",)
    entry = {**raw["VAELoader"], "input": {"required": {"vae_name": [["new.safetensors"]]}}}
    info.replace("VAELoader", {"VAELoader": entry} if wrapped else entry)

    assert info.node("VAELoader").inputs["vae_name"].choices == ("new.safetensors",)
    assert raw["VAELoader"]["input"]["required"]["vae_name"][0] == ["pixel_space"]


def test_replace_with_nothing_drops_the_class(info):
    """`{}` is the engine's answer for a class that it no longer has."""
    assert "Load VAE" in info.display_names
    info.replace("VAELoader", {})
    info.replace("NeverWas", {})

    assert info.node("VAELoader") is None
    assert "VAELoader" not in info.classes
    assert "Load VAE" not in info.display_names


def test_an_input_declared_twice_is_required():
    """The engine looks at the required ones first."""
    info = ObjectInfo({"A": {"input": {"required": {"x": ["INT"]}, "optional": {"x": ["FLOAT"]}}}})

    assert [(i.type, i.required) for i in info.node("A").inputs.values()] == [("INT", True)]


def test_choices_that_cannot_be_hashed_are_searched():
    """A choice that is a list is found, and a value that is an object is in no list."""
    inputs = ObjectInfo({"A": {"input": {"required": {"x": [[["a"], "b"]], "y": [["c"]]}}}})
    x, y = inputs.node("A").inputs.values()

    assert (x.has_choice(["a"]), x.has_choice("b"), x.has_choice({})) == (True, True, False)
    assert (y.has_choice("c"), y.has_choice({}), y.has_choice(["c"])) == (True, False, False)


def test_nonsense_declarations_do_not_raise():
    """Whatever a broken pack declares, there is a declaration or None."""
    rng = random.Random(7)
    junk = [None, 1, "x", [], {}, [[]], ["INT", None], ["COMBO", {"options": 3}], [None, {}], True]
    for _ in range(2000):
        entry = {
            key: rng.choice([*junk, {"required": {"a": rng.choice(junk)}, "optional": []}])
            for key in ("input", "output", "display_name", "python_module", "output_node")
        }
        info = ObjectInfo({"A": rng.choice([entry, entry, *junk])})
        spec = info.node("A")

        assert spec is None or spec.class_type == "A"
        assert isinstance(info.display_names, dict)
