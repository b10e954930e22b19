"""Which values of a graph name models."""

from __future__ import annotations

import pytest

from handler.graph.model_inputs import is_model_url, model_inputs, wishing_classes
from handler.graph.object_info import ObjectInfo

URL = "https://h.example/a.safetensors"
CORE = """
    checkpoints configs loras vae text_encoders diffusion_models clip_vision style_models
    embeddings diffusers vae_approx controlnet gligen upscale_models hypernetworks photomaker
    classifiers model_patches audio_encoders
"""
STOCK = {name: [] for name in CORE.split()} | {"checkpoints": ["random_sd15.safetensors"]}
STOCK["configs"] = ["v1-inference.yaml", "anything_v3.yaml"]

# What a stock ComfyUI has of loaders, and the folder of each input.
LOADERS = [
    ("CheckpointLoaderSimple", "ckpt_name", "checkpoints"),
    ("CheckpointLoader", "config_name", "configs"),
    ("unCLIPCheckpointLoader", "ckpt_name", "checkpoints"),
    ("ImageOnlyCheckpointLoader", "ckpt_name", "checkpoints"),
    ("CreateHookModelAsLora", "ckpt_name", "checkpoints"),
    ("DiffusersLoader", "model_path", "diffusers"),
    ("LoraLoader", "lora_name", "loras"),
    ("LoraLoaderModelOnly", "lora_name", "loras"),
    ("CreateHookLora", "lora_name", "loras"),
    ("TrainLoraNode", "existing_lora", "loras"),
    ("VAELoader", "vae_name", "vae"),
    ("ControlNetLoader", "control_net_name", "controlnet"),
    ("DiffControlNetLoader", "control_net_name", "controlnet"),
    ("UNETLoader", "unet_name", "diffusion_models"),
    ("CLIPLoader", "clip_name", "text_encoders"),
    ("DualCLIPLoader", "clip_name2", "text_encoders"),
    ("TripleCLIPLoader", "clip_name3", "text_encoders"),
    ("QuadrupleCLIPLoader", "clip_name4", "text_encoders"),
    ("CLIPVisionLoader", "clip_name", "clip_vision"),
    ("StyleModelLoader", "style_model_name", "style_models"),
    ("GLIGENLoader", "gligen_name", "gligen"),
    ("UpscaleModelLoader", "model_name", "upscale_models"),
    ("HypernetworkLoader", "hypernetwork_name", "hypernetworks"),
    ("PhotoMakerLoader", "photomaker_model_name", "photomaker"),
    ("ModelPatchLoader", "name", "model_patches"),
    ("AudioEncoderLoader", "audio_encoder_name", "audio_encoders"),
]


def node(class_type, **inputs):
    return {"1": {"class_type": class_type, "inputs": inputs, "_meta": {"title": "the loader"}}}


def custom(**inputs):
    entry = {"input": {"required": inputs}, "python_module": "custom_nodes.pack"}
    return ObjectInfo({"Custom": entry})


def folders(info, listings, value=URL, known=(), **inputs):
    graph = node("Custom", **(inputs or {"thing": value}))
    return [want.folders for want in model_inputs(graph, info, listings, known)]


@pytest.mark.parametrize(("class_type", "name", "folder"), LOADERS)
def test_stock_loaders_take_urls(info, class_type, name, folder):
    """By what a real ComfyUI lists, most of its folders being empty."""
    (want,) = model_inputs(node(class_type, **{name: URL}), info, STOCK)

    assert (want.input, want.value, want.folders, want.listed) == (name, URL, (folder,), False)
    assert (want.node_id, want.title) == ("1", "the loader")
    assert want.location == f"prompt.1.inputs.{name}"


def test_no_other_input_of_a_stock_node_is_a_model(raw, info):
    """Methods, styles and kinds have choices, too."""
    odd = {("LoadLatent", "latent"), ("OpenAIInputFiles", "file"), ("GeminiInputFiles", "file")}
    more = {"CreateHookModelAsLoraModelOnly", "CreateHookLoraModelOnly"}
    found = set()
    for class_type in raw:
        spec = info.node(class_type)
        graph = node(class_type, **dict.fromkeys(spec.inputs, URL))
        found |= {(w.class_type, w.input) for w in model_inputs(graph, info, STOCK)}

    known = {(class_type, name) for class_type, name, _ in LOADERS}
    rest = {(c, i) for c, i in found - known - odd if c not in more}
    assert all(c.endswith(("CLIPLoader", "CheckpointLoader")) for c, i in rest), rest


def test_the_folder_is_the_one_whose_files_are_the_choices():
    """Whatever class and input are called."""
    listings = {"odd": ["a.pth", "b/c.pth"], "loras": ["x.safetensors"], "vae": []}
    info = custom(thing=[["None", "a.pth", "b/c.pth"]])

    assert folders(info, listings) == [("odd",)]


def test_a_part_of_a_folders_files_is_enough():
    """A loader may list one kind of file only."""
    listings = {"odd": ["a.gguf", "b.safetensors"], "loras": ["x.safetensors"], "vae": []}

    assert folders(custom(thing=[["a.gguf"]]), listings) == [("odd",)]


def test_a_list_of_two_folders_has_both_where_names_do_not_decide():
    """Each would do."""
    listings = {"one": ["a.pt"], "two": ["b.pt"], "three": ["c.pt"]}

    assert folders(custom(thing=[["a.pt", "b.pt"]]), listings) == [("one", "two")]
    assert folders(custom(two_name=[["a.pt", "b.pt"]]), listings, two_name=URL) == [("two",)]


def test_a_choice_that_came_or_went_since_does_not_hide_the_folder():
    """The largest overlap decides then."""
    listings = {"one": ["a.pt", "new.pt"], "two": ["z.pt"]}

    assert folders(custom(thing=[["a.pt", "gone.pt"]]), listings) == [("one",)]


def test_an_empty_list_may_be_any_empty_folders():
    """Which one has to be found out."""
    listings = {"one": [], "two": [], "full": ["x.pt"]}

    assert folders(custom(thing=[[]]), listings) == [("one", "two")]


def test_files_that_are_there_to_find_a_folder_do_not_count():
    """Another job may be looking right now."""
    listings = {"one": [], "two": []}

    assert folders(custom(thing=[["comfyfn-probe-12-0.pt"]]), listings) == [("one", "two")]


@pytest.mark.parametrize(
    "declared",
    [
        ["STRING", {"multiline": True}],
        [["enable", "disable"]],
        [[1, 2]],
        [["other.pt", "files.pt"]],
        [[], {"image_upload": True}],
        ["COMBO", {"remote": {"route": "/x"}}],
        ["MODEL"],
    ],
)
def test_urls_elsewhere_are_left_alone(declared):
    """Plain texts, other choices, uploads, and lists that only the browser knows."""
    assert folders(custom(thing=declared), {"one": [], "two": ["x.pt"]}) == []


def test_names_of_the_catalogue_are_wishes():
    """A listed file of the same name wins; what nobody knows is a fault told elsewhere."""
    info = custom(thing=[["a.pt", "sdxl"]], other=[["a.pt"]])
    listings = {"one": ["a.pt", "sdxl"]}
    graph = node("Custom", thing="sdxl", other="sdxl")

    wants = model_inputs(graph, info, listings, {"sdxl"})

    assert [(w.input, w.listed) for w in wants] == [("thing", True), ("other", False)]
    assert wishing_classes(graph, info, {"sdxl"}) == {"Custom"}
    assert model_inputs(node("Custom", other="sdxm"), info, listings, {"sdxl"}) == []
    assert wishing_classes(node("Custom", thing="sdxl"), info, {"sdxl"}) == set()


def test_listed_files_are_given_for_keeping_them():
    """With every folder that has them; other choices are none."""
    info = custom(thing=[["None", "a.pt", "new.pt"]])
    listings = {"one": ["a.pt"], "two": ["a.pt", "b.pt"], "three": []}

    (want,) = model_inputs(node("Custom", thing="a.pt"), info, listings)
    assert (want.listed, want.folders) == (True, ("one", "two"))
    (want,) = model_inputs(node("Custom", thing="new.pt"), info, listings)
    assert (want.listed, want.folders) == (True, ("one", "two", "three"))
    assert model_inputs(node("Custom", thing="None"), info, listings) == []


def test_lists_hold_several_models():
    """Links are no lists of models."""
    info = custom(things=["COMBO", {"options": ["a.pt"], "multiselect": True}])
    graph = node("Custom", things=[URL, "a.pt", 5])

    wants = model_inputs(graph, info, {"one": ["a.pt"]})

    assert [(w.value, w.place, w.listed) for w in wants] == [
        (URL, (0,), False),
        ("a.pt", (1,), True),
    ]
    assert wants[0].location == "prompt.1.inputs.things"
    assert model_inputs(node("Custom", things=["4", 0]), info, {"one": ["a.pt"]}) == []


def test_objects_that_no_class_declares_hold_models_by_key():
    """As rgthree's Power Lora Loader has them; other keys and texts are left."""
    info = custom(model=["MODEL"])
    lora = {"on": True, "lora": URL, "strength": 1, "note": URL}
    graph = node("Custom", lora_1=lora, lora_2={**lora, "lora": "x.pt"}, text=URL)
    listings = {"loras": ["x.pt"], "vae": []}

    wants = model_inputs(graph, info, listings)

    assert [(w.input, w.place, w.folders, w.listed) for w in wants] == [
        ("lora_1", ("lora",), ("loras",), False),
        ("lora_2", ("lora",), ("loras",), True),
    ]
    assert wants[0].location == "prompt.1.inputs.lora_1"
    deep = {"a": {"b": {"vae": URL}}}
    assert model_inputs(node("Custom", many=deep), info, listings)[0].place == ("a", "b", "vae")


def test_what_is_no_node_is_passed_over(info):
    """Such faults are told elsewhere."""
    graph = {"1": 5, "2": {"class_type": "Nobody", "inputs": {"a": URL}}, "3": {"inputs": {}}}

    assert model_inputs(graph, info, STOCK) == []
    assert wishing_classes(graph, info) == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://h/a", True),
        ("HTTP://h/a", True),
        ("s3://b/k", True),
        ("gs://b/k", True),
        ("file:///m/a.pt", True),
        ("/m/a.pt", True),
        ("ftp://h/a", True),
        ("http:/me:secret@h/a", True),
        ("C:/models/a.pt", False),
        ("a.pt", False),
        ("sub/a.pt", False),
        ("C:\\a.pt", False),
        ("/", False),
        ("https://" + "x" * 9000, False),
    ],
)
def test_urls_and_absolute_paths_are_told_from_names(text, expected):
    """Of any scheme: which ones can be read is for the sources to say."""
    assert is_model_url(text) is expected
