"""docker-bake.hcl: what is built, and what it is called."""

from __future__ import annotations

import re

import pytest
from dockerfiles import IMAGE, read
from hcl import targets
from live import REPO

from handler.version import VERSION

TEXT = (REPO / "docker" / "docker-bake.hcl").read_text()
TARGETS = targets(TEXT)
TAG = re.compile(
    r"comfyfn:comfy(?P<comfyui>\d+\.\d+\.\d+)-fn(?P<fn>\d+\.\d+\.\d+)-torch(?P<torch>\d+\.\d+\.\d+)"
    r"-(cuda(?P<cuda>\d+\.\d+)-(?P<flavour>runtime|devel)|cpu)"
)


def test_the_matrix_has_every_flavour_for_every_cuda_and_one_without():
    """A row for each tag, no two alike."""
    tags = [tag for target in TARGETS.values() for tag in target["tags"]]
    rows = {tag.rpartition("cuda")[2] for tag in tags if "cuda" in tag}

    assert rows == {"12.8-runtime", "12.8-devel", "12.6-runtime", "12.6-devel"}
    assert len(set(tags)) == len(tags) == len(TARGETS) == 5


@pytest.mark.parametrize("name", TARGETS)
def test_a_tag_says_what_is_inside(name):
    """Each part of it is what the build is told."""
    target = TARGETS[name]
    (tag,) = target["tags"]
    said, told = TAG.fullmatch(tag), target["args"]

    assert said is not None, tag
    assert said["fn"] == VERSION
    assert (said["comfyui"], said["torch"]) == (told["COMFYUI"], told["TORCH"])
    assert (said["flavour"] or "cpu") == told["FLAVOUR"]
    assert said["cuda"] == told.get("CUDA")
    if said["cuda"]:
        assert told["CUDA_IMAGE"].startswith(f"{said['cuda']}.")
    assert re.fullmatch(r"[a-zA-Z0-9_-]+", name), "a name that bake refuses"


@pytest.mark.parametrize("name", TARGETS)
def test_every_argument_is_one_that_the_dockerfile_has(name):
    """A mistyped one would be ignored by the build."""
    target = TARGETS[name]
    assert (target["dockerfile"], target["context"]) == ("docker/Dockerfile", ".")

    declared = set(re.findall(r"^ARG (\w+)", IMAGE.read_text(), re.MULTILINE))
    assert set(target["args"]) <= declared


@pytest.mark.parametrize("name", TARGETS)
def test_the_base_image_is_that_of_the_flavour(name):
    """NVIDIA's for a GPU, of the release that the tag tells; Ubuntu's without."""
    told = TARGETS[name]["args"]
    stages, _ = read(IMAGE, **told)
    system = next(stage for stage in stages if stage.name == "system")
    base = next(stage.base for stage in stages if stage.name == system.base)

    kind = {"runtime": "base", "devel": "devel"}.get(told["FLAVOUR"])
    wanted = f"nvidia/cuda:{told['CUDA_IMAGE']}-{kind}-ubuntu24.04" if kind else "ubuntu:24.04"
    assert base == wanted


def test_a_registry_is_one_variable():
    """For all images at once."""
    made = targets(TEXT, REPOSITORY="registry.example.org/me/comfyfn")
    assert all(
        tag.startswith("registry.example.org/me/comfyfn:comfy")
        for target in made.values()
        for tag in target["tags"]
    )
