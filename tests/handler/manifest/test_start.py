"""A manifest's way into a starting worker."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from lone import site_in

from handler.errors import InputFailed
from handler.manifest.faults import InstallFailed
from handler.manifest.schema import parse_manifest
from handler.manifest.start import (
    ENGINE_STEP,
    ManifestStart,
    holds_launch,
    manifest_of,
    places_of,
)
from handler.settings import SettingsError

TEXT = """
pip: [x]
models:
  before_start:
    - {url: https://e.org/a.bin, folder: vae}
  after_start:
    - {url: https://e.org/b.bin, folder: vae}
"""


class Hands:
    """Does steps when it is let: each ends when its name is let on, or fails."""

    def __init__(self):
        self.begun = []
        self.faults = {}
        self.gates = {}

    def let(self, *names):
        for name in names:
            self.gates.setdefault(name, asyncio.Event()).set()

    async def __call__(self, task):
        self.begun.append(task.name)
        await self.gates.setdefault(task.name, asyncio.Event()).wait()
        if task.name in self.faults:
            raise self.faults[task.name]
        return "well"


@contextlib.asynccontextmanager
async def starting(text=TEXT):
    """Give a start that has begun, and the hands that do its steps."""
    hands = Hands()
    start = ManifestStart(parse_manifest(text), hands)
    start.begin()
    try:
        yield start, hands
    finally:
        await start.stop()


@contextlib.contextmanager
def site(tmp_path, **env):
    one = site_in(tmp_path, **env)
    try:
        yield one
    finally:
        one.close()


async def test_the_engine_waits_for_packages_and_the_warmup_for_models():
    """Files for later keep nobody waiting, and begin when the others are there."""
    async with starting() as (start, hands):
        launching = asyncio.create_task(start.before_engine())
        warming = asyncio.create_task(start.before_warmup())
        await asyncio.sleep(0.01)
        assert sorted(hands.begun) == ["model a.bin", "pip"]
        assert not launching.done()
        hands.let("pip")
        await launching
        assert not warming.done()
        hands.let("model a.bin")
        await warming
        assert start.installing() is None
        hands.let("after start: b.bin")
        await start.finished()
    assert {step["outcome"] for step in start.report()["steps"]} == {"done"}


async def test_the_engines_boot_is_a_step():
    """From its launch, which is at once where nothing is to be installed."""
    async with starting() as (start, _):
        assert ENGINE_STEP not in {step["name"] for step in start.report()["steps"]}
        start.launched()
        start.launched()
        start.answered()
        start.answered()
        steps = [s for s in start.report()["steps"] if s["name"] == ENGINE_STEP]
    assert [step["outcome"] for step in steps] == ["done"]

    async with starting("models: {before_start: [{url: https://e.org/a, local_path: a/a}]}") as (
        start,
        _,
    ):
        assert start.report()["steps"][0]["name"] == ENGINE_STEP
    assert start.report()["steps"][0]["outcome"] == "cancelled"


async def test_what_failed_is_told_and_not_tried_by_another_boot():
    """Each download has tried again by itself."""
    async with starting() as (start, hands):
        hands.faults["model a.bin"] = InputFailed("out of order", retryable=True)
        hands.let("pip", "model a.bin")
        with pytest.raises(InstallFailed, match="out of order") as caught:
            await start.before_warmup()
    assert not caught.value.retryable


async def test_a_file_for_later_that_fails_is_only_told():
    """Its state has the error; it is no warning of the boot's."""
    async with starting() as (start, hands):
        hands.faults["after start: b.bin"] = InputFailed("no such file")
        hands.let("pip", "model a.bin", "after start: b.bin")
        await start.before_warmup()
        await start.finished()
    later = start.report()["models"][1]
    assert (later["state"], later["error"]) == ("failed", "no such file")
    assert start.report()["warnings"] == []


async def test_what_is_gone_without_is_a_warning():
    """Steps of optional packs, and what others note; said once each."""
    text = "custom_nodes: [{name: spare, optional: true}]"
    async with starting(text) as (start, hands):
        hands.faults["pack spare"] = InstallFailed("no such pack")
        hands.let("pack spare", "pip")
        await start.before_engine()
        start.warn(["little memory"])
        start.warn(["little memory"])
        assert start.report()["warnings"] == ["little memory", "no such pack"]


async def test_a_stop_ends_what_runs_and_may_come_twice():
    """Also before the begin."""
    async with starting() as (start, _):
        await asyncio.sleep(0.01)
        assert start.installing().startswith("installing: pip (")
        await start.stop()
        assert start.installing() is None
        with pytest.raises(InstallFailed, match="stopped"):
            await start.before_warmup()
    await ManifestStart(parse_manifest(TEXT), Hands()).stop()


async def test_the_chart_is_drawn_line_by_line(caplog):
    """The log has one message a line."""
    caplog.set_level("INFO")
    async with starting() as (start, hands):
        hands.let("pip", "model a.bin", "after start: b.bin")
        await start.finished()
        caplog.clear()
        start.log_chart()
    assert len(caplog.messages) == 3
    assert all("|" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("{}", False),
        ("models: {before_start: [{url: https://e.org/a.bin, folder: vae}]}", False),
        ("requires: {vram_gb: 1}", False),
        ("apt: [x]", True),
        ("pip: [x]", True),
        ("comfyui: 0.3.64", True),
        ("custom_nodes: [x]", True),
    ],
)
def test_only_installations_hold_the_launch_back(text, held):
    """Models come beside the boot."""
    assert holds_launch(parse_manifest(text)) is held
    assert not holds_launch(None)


def test_no_manifest_is_none(tmp_path):
    """Nothing is set by default."""
    with site(tmp_path) as one:
        assert manifest_of(one) is None


def test_the_manifest_of_a_site_is_read_and_its_folders_are_made(tmp_path):
    """The engine is told of folders that are there; what is to be read ahead is noted."""
    text = '{"models": {"before_start": [{"url": "https://e.org/a.bin", "folder": "vae/sub"}, '
    text += '{"url": "https://e.org/b.bin", "folder": "mine"}]}, '
    with site(tmp_path, MANIFEST_JSON=text + '"preload": ["a.bin"]}') as one:
        manifest = manifest_of(one)
        assert manifest.before_start[0].label == "a.bin"
        assert one.preload == ["a.bin"]
    assert (tmp_path / "models" / "vae" / "sub").is_dir()
    assert not (tmp_path / "models" / "mine").exists(), "the engine would be told of it"


@pytest.mark.parametrize(
    ("text", "env", "said"),
    [
        ('{"apt": 1, "pip": 2}', {}, r"has 2 faults:\n  line 1, apt: .*\n  line 1, pip: "),
        ('{"custom_nodes": ["x"]}', {}, "set COMFY_HOME"),
        ('{"comfyui": "0.3.64"}', {}, "set COMFY_HOME"),
        ('{"pip": ["x"]}', {"ENGINE": "auto", "COMFY_URL": "http://127.0.0.1:1"}, "COMFY_URL"),
        (
            '{"models": {"before_start": [{"url": "https://e.org/a", "local_path": "/etc/a"}]}}',
            {},
            "line 1, models: local_path '/etc/a' is outside",
        ),
        (
            '{"models": {"before_start": [{"url": "https://e.org/a.b", "folder": "vae"}]}}',
            {"ENGINE": "auto", "CMD": "true", "MODEL_DIR": ""},
            "set MODEL_DIR",
        ),
        ('{"custom_nodes": ["/srv/repository"]}', {}, "line 1, custom_nodes"),
    ],
)
def test_a_manifest_that_cannot_be_carried_out_is_a_fault_of_the_settings(
    tmp_path, text, env, said
):
    """Before anything is started."""
    with (
        site(tmp_path, MANIFEST_JSON=text, **env) as one,
        pytest.raises(SettingsError, match=said),
    ):
        manifest_of(one)


def test_an_attached_engine_may_have_a_catalogue(tmp_path):
    """It installs nothing."""
    text = '{"requires": {"vram_gb": 1}}'
    env = {"ENGINE": "auto", "COMFY_URL": "http://127.0.0.1:1"}
    with site(tmp_path, MANIFEST_JSON=text, **env) as one:
        assert manifest_of(one).requires.vram_gb == 1
        assert places_of(one) is None


def test_repositories_of_this_machine_are_taken_where_that_is_set(tmp_path):
    """MANIFEST_LOCAL_GIT is the operator's word for them."""
    home = tmp_path / "comfy"
    home.mkdir()
    (home / "main.py").touch()
    env = {"ENGINE": "auto", "COMFY_HOME": str(home), "MANIFEST_LOCAL_GIT": "true"}
    with site(tmp_path, MANIFEST_JSON='{"custom_nodes": ["/srv/repository"]}', **env) as one:
        assert manifest_of(one).custom_nodes[0].name == "repository"
        assert places_of(one).custom_nodes == home / "custom_nodes"


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_a_pack_may_know_is_made(tmp_path, there):
    """One of the manifest, or one that the image has."""
    home = tmp_path / "comfy"
    (home / "custom_nodes" / "__pycache__").mkdir(parents=True)
    (home / "custom_nodes" / ("pack" if there else "pack.disabled")).mkdir()
    (home / "main.py").touch()
    body = {"models": {"before_start": [{"url": "https://e.org/a.bin", "folder": "mine"}]}}
    env = {"ENGINE": "auto", "COMFY_HOME": str(home)}
    with site(tmp_path, MANIFEST_JSON=json.dumps(body), **env) as one:
        manifest_of(one)
        models = places_of(one).models
    assert (models / "mine").is_dir() is there
    text = json.dumps({**body, "custom_nodes": ["pack"]})
    with site(tmp_path, MANIFEST_JSON=text, **env) as one:
        manifest_of(one)
    assert (models / "mine").is_dir()


async def test_a_fault_of_the_engine_is_told_with_what_failed_by_then():
    """Alone where nothing did."""
    fault = InstallFailed("node pack p does not load", hint="mend p")
    async with starting() as (start, hands):
        assert start.with_failures(fault) is fault
        hands.faults["model a.bin"] = InputFailed("no such file")
        hands.let("pip", "model a.bin")
        with pytest.raises(InstallFailed, match="no such file"):
            await start.before_warmup()
        both = start.with_failures(fault)
    assert both.message == "node pack p does not load\nno such file"
    assert [one["step"] for one in both.details] == [ENGINE_STEP, "model a.bin"]
    assert both.hint == "mend p"


def test_roots_of_models_are_places(tmp_path):
    """`root/x` and `root/models/x` both."""
    root = tmp_path / "volume"
    with site(tmp_path, MODEL_ROOTS=str(root)) as one:
        places = places_of(one)
    assert {root, root / "models"} <= set(places.roots)
