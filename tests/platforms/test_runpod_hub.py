"""The files of RunPod's Hub: as its guide wants them, and the Hub's tests through its handler."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from live import COMFY_HOME, REPO
from platforms.runpod_double import RunpodDouble, RunpodWorker, engine_env

from handler.settings import Settings
from handler.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

HUB = REPO / ".runpod"
SCHEMA = json.loads(Path(__file__).with_name("runpod_hub_schema.json").read_text())
LISTING = json.loads((HUB / "hub.json").read_text())
TESTS = json.loads((HUB / "tests.json").read_text())


def faults(content: Any, kind: str) -> list[str]:
    schema = {**SCHEMA, "$ref": f"#/$defs/{kind}"}
    found = jsonschema.Draft202012Validator(schema).iter_errors(content)
    return [f"{fault.json_path}: {fault.message}" for fault in found]


@pytest.mark.parametrize("kind", ["hub", "tests"])
def test_the_hubs_files_fit_its_guide(kind: str) -> None:
    """Every field that it names, and no other."""
    assert faults({"hub": LISTING, "tests": TESTS}[kind], kind) == []


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("category", "pictures"),
        ("config.gpuIds", "RTX 4090"),
        ("config.allowedCudaVersions", [12.8]),
        ("config.env", [{"key": "A", "input": {"name": "a", "type": "text", "description": "a"}}]),
        ("config.presets", [{"name": "a", "defaults": {"A": None}}]),
        ("config.runsOn", "CPU"),
    ],
)
def test_the_schema_tells_what_the_guide_forbids(where: str, value: Any) -> None:
    """It would be worth nothing if it took everything."""
    broken = copy.deepcopy(LISTING)
    *path, name = where.split(".")
    place = broken
    for part in path:
        place = place[part]
    place[name] = value
    assert faults(broken, "hub")


def test_every_variable_of_the_listing_is_a_setting() -> None:
    """With a default that it takes; those of presets are asked for."""
    known = {field.metadata["env"] for field in fields(Settings)}
    asked = {one["key"]: one["input"] for one in LISTING["config"]["env"]}
    assert set(asked) <= known
    for preset in LISTING["config"]["presets"]:
        assert set(preset["defaults"]) <= set(asked)
        Settings.from_env({name: str(value) for name, value in preset["defaults"].items()})
    Settings.from_env({name: str(one.get("default", "")) for name, one in asked.items()})


def test_the_hub_finds_its_files() -> None:
    """handler.py, Dockerfile, README.md."""
    assert all((HUB / name).is_file() for name in ("handler.py", "Dockerfile", "README.md"))


def test_the_image_is_a_tag_of_ours() -> None:
    """Of this version, on a CUDA that the listing allows."""
    text = (HUB / "Dockerfile").read_text()
    tag = r"comfy[\d.]+-fn([\d.]+)-torch[\d.]+-cuda([\d.]+)-runtime"
    found = re.search(rf"^FROM \S+:{tag}$", text, re.MULTILINE)
    assert found
    assert found[1] == VERSION
    assert found[2] in LISTING["config"]["allowedCudaVersions"]
    assert all(one >= found[2] for one in LISTING["config"]["allowedCudaVersions"])


def test_hadolint_has_nothing_to_say() -> None:
    """Of the Hub's Dockerfile."""
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or "hadolint"
    said = subprocess.run(
        [hadolint, HUB / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (0, "")


@pytest.fixture(
    scope="module",
    params=["embedded", pytest.param("comfyui", marks=pytest.mark.comfyui)],
)
def double(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunpodDouble]:
    """Give a job API whose worker is the Hub's handler, with the environment of its tests."""
    if request.param == "comfyui" and not COMFY_HOME:
        pytest.skip("COMFY_HOME is not set")
    tested = {one["key"]: one["value"] for one in TESTS["config"]["env"]}
    jobs = RunpodDouble().start()
    home = tmp_path_factory.mktemp("hub")
    env = {**engine_env(request.param), "PYTHONPATH": str(REPO), **tested}
    worker = RunpodWorker(jobs, home, **env)
    worker.command = [str(HUB / "handler.py")]
    try:
        worker.start()
        yield jobs
        assert worker.end() == 0
    finally:
        worker.close()
        jobs.close()


@pytest.mark.parametrize("test", TESTS["tests"], ids=lambda test: test["name"])
def test_the_hubs_tests_pass(double: RunpodDouble, test: dict[str, Any]) -> None:
    """Through the real SDK, on core nodes, in their time."""
    posted = double.result(double.give(test["input"]), test["timeout"] / 1000)
    assert "error" not in posted, posted
    assert posted["output"]["images"]
