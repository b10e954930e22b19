"""The manifests that come with the package, and the smallest graph that warms each up."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import yaml

from handler.graph.check import check_graph, has_output_node
from handler.graph.object_info import ObjectInfo
from handler.manifest.table import BEGIN, END, requires_table

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "manifests"
RECORDINGS = ROOT / "tests" / "recordings"
NAMES = [
    "cogvideox",
    "cosmos",
    "flux1-dev-fp8",
    "flux1-schnell-fp8",
    "hunyuan-video",
    "ltx-video",
    "mochi",
    "sd15",
    "sd35",
    "sdxl",
    "sdxl-refiner",
    "wan",
]
FOLDER_OF_INPUT = {
    ("CheckpointLoaderSimple", "ckpt_name"): "checkpoints",
    ("UNETLoader", "unet_name"): "diffusion_models",
    ("CLIPLoader", "clip_name"): "text_encoders",
    ("DualCLIPLoader", "clip_name1"): "text_encoders",
    ("DualCLIPLoader", "clip_name2"): "text_encoders",
    ("VAELoader", "vae_name"): "vae",
    ("CogVideoXModelLoader", "model"): "diffusion_models",
    ("CogVideoXVAELoader", "model_name"): "vae",
}


def manifest_of(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def models_of(name):
    return manifest_of(name)["models"]["before_start"]


def graph_of(name):
    return json.loads((FOLDER / f"{name}.warmup.json").read_bytes())


def chosen_files(graph):
    """Give (class, input, file name) of every file of weights a graph names."""
    return [
        (node["class_type"], name, value)
        for node in graph.values()
        for name, value in node["inputs"].items()
        if isinstance(value, str) and value.endswith(".safetensors")
    ]


def classes_with_files(classes, models):
    """Give a copy of the classes in which the manifest's files are there to choose."""
    classes = copy.deepcopy(classes)
    for (class_type, name), folder in FOLDER_OF_INPUT.items():
        if class_type in classes:
            head = classes[class_type]["input"]["required"][name][0]
            head += [model["filename"] for model in models if model["folder"] == folder]
    return classes


@pytest.fixture(scope="module")
def core():
    return json.loads((RECORDINGS / "object_info.json").read_bytes())


@pytest.fixture(scope="module")
def packs():
    """Give what is recorded of each pack: url, commit and the classes the graphs use."""
    return [json.loads(path.read_bytes()) for path in sorted(RECORDINGS.glob("packs/*.json"))]


@pytest.fixture(scope="module")
def folders():
    recording = json.loads((RECORDINGS / "transcripts" / "16_models_and_info.json").read_bytes())
    return next(e["response_body"] for e in recording["http"] if e["path"] == "/models")


def packs_of(name, packs):
    wanted = manifest_of(name).get("custom_nodes") or []
    return [pack for pack in packs if f"{pack['url']}@{pack['commit']}" in wanted]


def test_all_are_here():
    """Each manifest has its graph, and nobody else's."""
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(NAMES)
    assert {path.name for path in FOLDER.glob("*.json")} == {f"{n}.warmup.json" for n in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_every_model_has_an_address_and_a_folder_of_the_engine(name, folders):
    """What is known of a file has the right form; what is not known is not there."""
    for model in models_of(name):
        keys = {"url", "folder", "filename", "sha256", "size", "licence"}
        assert model.keys() <= keys
        assert model["url"].startswith("https://huggingface.co/")
        assert "/resolve/main/" in model["url"]
        assert model["url"].endswith(f"/{model['filename']}")
        assert model["folder"] in folders
        assert model["licence"]
        assert re.fullmatch("[0-9a-f]{64}", model.get("sha256", "0" * 64))
        assert isinstance(model.get("size", 10**9), int)
        assert model.get("size", 10**9) > 10**8


def test_one_file_is_the_same_in_all_manifests():
    """A model that several name has one address, folder, hash and size."""
    seen = {}
    for name in NAMES:
        for model in models_of(name):
            assert seen.setdefault(model["filename"], model) == model


@pytest.mark.parametrize("name", NAMES)
def test_each_figure_says_where_it_was_read(name):
    """In the comment above it; where one lacks, a comment says that it was not found."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    _, *blocks = text.partition("preload:")[0].split("    - url: ")

    for block, model in zip(blocks, models_of(name), strict=True):
        both = "# sha256 and size: " in block
        for key in ("sha256", "size"):
            if key in model:
                assert both or re.search(rf"# {key}: \S.+\n +{key}: ", block), block
            else:
                assert re.search(rf"# .*\bno\b.*\b{key}\b.* was found", block), block


@pytest.mark.parametrize("name", NAMES)
def test_preload_names_the_manifests_files(name):
    """All of them: a warmup loads each."""
    assert manifest_of(name)["preload"] == [model["filename"] for model in models_of(name)]


@pytest.mark.parametrize("name", NAMES)
def test_what_it_requires(name):
    """Every key is there, so that the table has no holes."""
    needs = manifest_of(name)["requires"]

    assert needs.keys() == {"vram_gb", "ram_gb", "gpu", "typical_s", "pattern", "image"}
    assert needs["pattern"] == ("queue" if needs["typical_s"][1] > 90 else "gateway")
    assert needs["image"] == ("devel" if needs["pattern"] == "queue" else "runtime")
    assert needs["typical_s"][0] < needs["typical_s"][1]
    assert 8 <= needs["vram_gb"] <= 24
    assert needs["ram_gb"] > needs["vram_gb"]


@pytest.mark.parametrize("name", NAMES)
def test_only_missing_model_files_are_wrong_with_the_graph(name, core, packs):
    """Against the recorded engine, which has none of them; a pack's classes are named as such."""
    from_pack = {c for pack in packs_of(name, packs) for c in pack["classes"]}
    faults = check_graph(graph_of(name), ObjectInfo(core))
    absent = {f.class_type for f in faults if f.type == "missing_node_type"}
    rest = [f for f in faults if f.type != "missing_node_type"]

    assert absent == from_pack
    assert {f.type for f in rest} <= {"value_not_in_list"}
    # What only a node of an unknown class needs is not looked at.
    looked_at = () if from_pack else chosen_files(graph_of(name))
    assert {f.received for f in rest} == {file for _, _, file in looked_at}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wrong_once_files_and_packs_are_there(name, core, packs):
    """The strictest check finds no fault: names, links, types, limits, and the files' folders."""
    classes = dict(core)
    for pack in packs_of(name, packs):
        classes.update(pack["classes"])
    info = ObjectInfo(classes_with_files(classes, models_of(name)))

    assert check_graph(graph_of(name), info, strict=True) == []
    assert has_output_node(graph_of(name), info)


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_loads_every_file_of_the_manifest_and_no_other(name):
    """From the loader that reads the folder it is put in."""
    by_name = {model["filename"]: model["folder"] for model in models_of(name)}
    chosen = chosen_files(graph_of(name))

    assert {file for _, _, file in chosen} == by_name.keys()
    assert all(FOLDER_OF_INPUT[node, key] == by_name[file] for node, key, file in chosen)


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_is_small(name):
    """At most 4 steps and 256 pixels, one picture or the shortest film that has two latents."""
    inputs = [node["inputs"] for node in graph_of(name).values()]
    steps = [each["steps"] for each in inputs if "steps" in each]
    lengths = {each[key] for each in inputs for key in ("length", "num_frames") if key in each}

    assert steps
    assert max(steps) <= 4
    assert all(each.get("width", 0) <= 256 and each.get("height", 0) <= 256 for each in inputs)
    assert all(each.get("batch_size", 1) == 1 for each in inputs)
    assert lengths <= {5, 7, 9}
    assert bool(lengths) == (manifest_of(name)["requires"]["pattern"] == "queue")


@pytest.mark.parametrize("name", NAMES)
def test_packs_are_pinned_at_a_commit_and_recorded(name, packs):
    """Only where the graph has classes that ComfyUI itself has not."""
    wanted = manifest_of(name).get("custom_nodes", [])

    assert all(re.fullmatch(r"https://github\.com/[^@]+@[0-9a-f]{40}", url) for url in wanted)
    assert len(packs_of(name, packs)) == len(wanted)
    assert bool(wanted) == (name == "cogvideox")


def test_the_readmes_table_is_what_the_manifests_say():
    """Renew it with `handler.manifest.table.refresh_readme`."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")

    assert text.partition(BEGIN)[2].partition(END)[0] == f"\n{requires_table(FOLDER)}"


def test_the_readme_tells_of_every_address_where_it_was_looked_up():
    """One row a file, or the word "unchecked"; the packs stand there too."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| <(\S+)> \| ([^|]+) \|", text, flags=re.MULTILINE))
    files = {model["url"] for name in NAMES for model in models_of(name)}
    nodes = {url for name in NAMES for url in manifest_of(name).get("custom_nodes", [])}

    assert rows.keys() == files | nodes
    assert all(row.strip() for row in rows.values())
