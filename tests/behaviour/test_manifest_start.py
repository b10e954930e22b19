"""A manifest at the start: beside the engine's boot, never twice, and told when it fails."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from behaviour.driving import assert_error, assert_picture, wait_until
from behaviour.graphs import fresh_color, picture
from behaviour.lone_engine import embedded_command
from behaviour.packs import commit, make_pack
from behaviour.range_server import RangeServer, range_server
from live import REPO, LiveServer, alive, free_port
from shell import comfyfn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MB = 1_000_000
BODY = random.Random(1).randbytes(6 * MB)
IMPORTS = "Import times for custom nodes:"


@pytest.fixture
def host() -> Iterator[RangeServer]:
    """Give a file server that is as fast as it can be."""
    with range_server() as running:
        yield running


def steps(server: LiveServer) -> dict[str, dict[str, Any]]:
    """Give the timeline's records by name."""
    told = server.get("/health").json()["boot"]["manifest"]["steps"]
    return {step["name"]: step for step in told}


def models(server: LiveServer) -> dict[str, dict[str, Any]]:
    """Give what /health tells of each model."""
    told = server.get("/health").json()["boot"].get("manifest", {}).get("models", [])
    return {model["name"]: model for model in told}


def overlap(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Give the seconds that two steps ran at the same time."""
    return float(min(one["end"], other["end"]) - max(one["start"], other["start"]))


def entry(url: str, **fields: Any) -> dict[str, Any]:
    """Give a model of the manifest."""
    return {"url": url, "folder": "vae", **fields}


def manifest_of(**keys: Any) -> str:
    """Give the text of a manifest."""
    before, after = keys.pop("before", []), keys.pop("after", [])
    return json.dumps({**keys, "models": {"before_start": before, "after_start": after}})


def parts_of(folder: Path) -> int:
    """Count the bytes that unfinished downloads have on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob(".*.part"))


def test_models_come_while_the_engine_boots(start_server, host, tmp_path) -> None:
    """The engine is launched at once, the worker is ready when both are there."""
    host.bytes_per_s = 2 * MB  # on each of four connections
    url = host.put("/a.bin", BODY)
    warm = json.dumps(picture())
    server = start_server(
        MANIFEST_JSON=manifest_of(before=[entry(url)]),
        MODEL_DIR=str(tmp_path / "models"),
        COMFY_ARGS="--test-boot-seconds 3",
        WARMUP_PROMPT_JSON=warm,
    )
    told = steps(server)
    assert [step["outcome"] for step in told.values()] == ["done"] * 3
    assert overlap(told["engine boot"], told["model a.bin"]) > 0.3
    assert told["warmup"]["start"] >= max(told[n]["end"] for n in ("engine boot", "model a.bin"))
    assert (tmp_path / "models" / "vae" / "a.bin").read_bytes() == BODY
    state = models(server)["a.bin"]
    assert (state["state"], state["bytes"], state["when"]) == ("there", len(BODY), "before_start")
    assert state["mb_per_s"] > 0
    assert "engine boot" in server.log.read_text()
    phases = server.get("/health").json()["boot"]["phases"]
    assert phases["models_s"] + phases["warmup_s"] < phases["total_s"]


def test_what_is_installed_is_told_meanwhile(start_server, host, tmp_path) -> None:
    """Not ready, with the step and how far it is; a job that comes waits."""
    host.bytes_per_s = MB
    server = start_server(
        ready=False,
        MANIFEST_JSON=manifest_of(before=[entry(host.put("/a.bin", BODY))]),
        MODEL_DIR=str(tmp_path / "models"),
    )

    def told() -> str:
        health = server.get("/health").json()
        assert health["phase"] == "starting"
        return str(health["reason"])

    wait_until("it tells how far it is", lambda: "installing: model a.bin " in told())
    wait_until("in percent", lambda: told().endswith(" %"))
    assert server.get("/ready").status_code == 503
    host.bytes_per_s = 0
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)
    assert server.get("/health").json()["phase"] == "ready"


def test_files_for_later_keep_nobody_waiting(start_server, host, tmp_path) -> None:
    """Ready before they are there; one that fails is told and hurts nothing."""
    host.bytes_per_s = 0.2 * MB
    later = [entry(host.put("/b.bin", BODY)), entry(host.url("/gone.bin"), folder="loras")]
    server = start_server(
        MANIFEST_JSON=manifest_of(after=later), MODEL_DIR=str(tmp_path / "models")
    )
    wait_until("the one fails", lambda: models(server)["gone.bin"]["state"] == "failed")
    assert "404" in models(server)["gone.bin"]["error"]
    assert models(server)["b.bin"]["state"] == "fetching"
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)
    host.bytes_per_s = 0
    wait_until("the other comes", lambda: models(server)["b.bin"]["state"] == "there")
    assert server.get("/health").json()["phase"] == "ready"
    assert "gone.bin" in server.log.read_text()


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_comfyui_does_not_know_is_a_warning(start_server, host, tmp_path, there):
    """Also where an earlier start has left it, so that the engine was told of it."""
    root = tmp_path / "models"
    if there:
        (root / "checkpoint").mkdir(parents=True)
    before = [entry(host.put("/a.bin", b"weights"), folder="checkpoint")]
    server = start_server(
        MANIFEST_JSON=manifest_of(before=before, preload=["typo.safetensors"]), MODEL_DIR=str(root)
    )
    folder, preload = server.get("/health").json()["boot"]["manifest"]["warnings"]
    assert "a.bin is for the folder checkpoint, which " in folder
    assert "did you mean checkpoints?" in folder
    assert preload == "preload: typo.safetensors is in no folder of models"
    told = server.log.read_text()
    assert told.count("folder checkpoint") == told.count("typo.safetensors") == 1


def test_a_model_that_cannot_be_had_makes_the_worker_unhealthy(start_server, host, tmp_path):
    """Both are named, the port stays open, and the engine is not booted again and again."""
    before = [entry(host.url("/gone.bin")), entry(host.url("/lost.bin"))]
    server = start_server(
        ready=False, MANIFEST_JSON=manifest_of(before=before), MODEL_DIR=str(tmp_path / "models")
    )
    server.wait_for("/health", status=500)
    health = server.get("/health").json()
    assert "model gone.bin" in health["reason"]
    assert "model lost.bin" in health["reason"]
    assert_error(server.prompt(picture()), 503, "not_ready")
    outcomes = {name: step["outcome"] for name, step in steps(server).items()}
    assert outcomes["model gone.bin"] == outcomes["model lost.bin"] == "failed"
    assert "warmup" not in outcomes
    assert server.stop() == 0


def test_packages_hold_the_launch_back(start_server, host, tmp_path) -> None:
    """The engine starts when they are there; models come meanwhile."""
    server = start_server(
        MANIFEST_JSON=manifest_of(pip=["pyyaml"], before=[entry(host.put("/a.bin", BODY))]),
        MODEL_DIR=str(tmp_path / "models"),
    )
    told = steps(server)
    assert told["pip"]["note"] == "all there"
    assert told["engine boot"]["start"] >= told["pip"]["end"]
    assert told["model a.bin"]["start"] < told["engine boot"]["start"]


def test_packages_that_cannot_be_had_launch_nothing(start_server) -> None:
    """No engine is started for an installation that failed."""
    server = start_server(ready=False, MANIFEST_JSON='{"pip": ["-r no-such-file.txt"]}')
    server.wait_for("/health", status=500)
    assert "no-such-file.txt" in server.get("/health").json()["reason"]
    assert "comfyfn.comfyui: " not in server.log.read_text()


@pytest.mark.parametrize("verb", ["serve", "run"])
def test_a_manifest_with_faults_ends_the_start(tmp_path, verb) -> None:
    """Status 2 as for any setting, and every fault with its line."""
    path = tmp_path / "m.yaml"
    path.write_text("apt: [Not_A_Name]\nmodels:\n  before_start:\n    - {url: https://e.org/x}\n")
    said = comfyfn(verb, home=tmp_path, MANIFEST=str(path))
    assert said.returncode == 2
    assert said.stderr.startswith(f"comfyfn: settings: {path} has 2 faults:")
    assert "line 1, apt[0]" in said.stderr
    assert "line 4, models.before_start[0]" in said.stderr


def test_a_manifest_is_refused_where_nothing_can_carry_it_out(tmp_path) -> None:
    """Node packs without a ComfyUI; anything for one that runs already."""
    packs = '{"custom_nodes": ["https://github.com/o/r"]}'
    said = comfyfn("serve", home=tmp_path, MANIFEST_JSON=packs)
    assert said.returncode == 2
    assert "COMFY_HOME" in said.stderr
    said = comfyfn(
        "serve", home=tmp_path, MANIFEST_JSON='{"pip": ["x"]}', COMFY_URL="http://127.0.0.1:1"
    )
    assert said.returncode == 2
    assert "COMFY_URL" in said.stderr


def test_an_engine_that_is_started_again_repeats_nothing(start_server, host, tmp_path) -> None:
    """The source is not asked, the timeline stays."""
    server = start_server(
        MANIFEST_JSON=manifest_of(before=[entry(host.put("/a.bin", BODY))]),
        MODEL_DIR=str(tmp_path / "models"),
    )
    before, asked = steps(server), host.asked
    os.kill(server.engine_pid(), signal.SIGKILL)
    wait_until("it is seen", lambda: server.get("/ready").status_code == 503)
    server.wait_for("/ready")
    assert steps(server) == before
    assert host.asked == asked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_start_that_was_cut_short_is_gone_on_with(start_server, host, tmp_path, number) -> None:
    """The stop takes a moment; then only the rest is fetched, and the bytes are right."""
    host.bytes_per_s = MB
    body = random.Random(2).randbytes(24 * MB)
    url, folder = host.put("/a.bin", body), tmp_path / "models" / "vae"
    text = manifest_of(before=[entry(url, sha256=hashlib.sha256(body).hexdigest())])
    env = {"MANIFEST_JSON": text, "MODEL_DIR": str(tmp_path / "models")}
    server = start_server(ready=False, **env)
    wait_until("some is there", lambda: parts_of(folder) > 10 * MB)
    begun = time.monotonic()
    assert server.stop(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    assert time.monotonic() - begun < 8
    assert not (folder / "a.bin").exists()

    host.bytes_per_s, before = 0, host.served["/a.bin"]
    server.start()
    assert (folder / "a.bin").read_bytes() == body
    again = host.served["/a.bin"] - before
    assert again < len(body) - 4 * MB
    assert "were there" in steps(server)["model a.bin"]["note"]


def test_a_second_start_reads_no_file_again(start_server, host, tmp_path) -> None:
    """What was checked once is not hashed at every start; a changed file is."""
    url, path = host.put("/a.bin", BODY), tmp_path / "models" / "vae" / "a.bin"
    text = manifest_of(before=[entry(url, sha256=hashlib.sha256(BODY).hexdigest())])
    env = {"MANIFEST_JSON": text, "MODEL_DIR": str(tmp_path / "models")}
    start_server(**env).stop()
    asked = host.asked
    server = start_server(**env)
    told = steps(server)["model a.bin"]
    assert told["note"] == "there"
    assert told["end"] - told["start"] < 0.5
    assert host.asked == asked
    server.stop()

    path.write_bytes(b"x" * len(BODY))
    server = start_server(**env)
    assert path.read_bytes() == BODY
    assert "another sha256" in server.log.read_text()


class Home:
    """A ComfyUI home whose engine is the embedded one, and which tells of node packs as we say."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.folder = tmp_path / "comfy"
        (self.folder / "custom_nodes").mkdir(parents=True)

    def env(self, manifest: dict[str, Any], *lines: str) -> dict[str, str]:
        """Give a server's environment; the engine prints these lines in its boot."""
        port = free_port()
        engine = shlex.join(embedded_command(self.tmp_path / "engine", port))
        says = "; ".join(f"echo {shlex.quote(line)}" for line in lines) or "true"
        return {
            "ENGINE": "auto",
            "COMFY_HOME": str(self.folder),
            "COMFY_PYTHON": sys.executable,
            "CMD": shlex.join(["/bin/sh", "-c", f"{says}; exec {engine}"]),
            "COMFYUI_PORT_HOST": str(port),
            "ALLOW_CPU": "true",
            "PYTHONPATH": str(REPO),
            "MANIFEST_LOCAL_GIT": "true",
            "MANIFEST_JSON": json.dumps(manifest),
        }


@pytest.fixture
def home(tmp_path) -> Home:
    """Give a ComfyUI home to install into."""
    return Home(tmp_path)


def test_a_pack_that_does_not_load_stops_the_worker_by_name(start_server, home, tmp_path) -> None:
    """With its error, and what to do; however much the engine said after it."""
    repo = make_pack(tmp_path / "served" / "needs-cv", {"__init__.py": ""})
    many = [f"line {n}" for n in range(600)]
    env = home.env(
        {"custom_nodes": [str(repo)]},
        "Traceback (most recent call last):",
        "ModuleNotFoundError: No module named 'cv2'",
        f"Cannot import {home.folder}/custom_nodes/needs-cv module for custom nodes: "
        "No module named 'cv2'",
        *many,
        IMPORTS,
        f"   0.1 seconds (IMPORT FAILED): {home.folder}/custom_nodes/needs-cv",
    )
    server = start_server(ready=False, **env)
    server.wait_for("/health", status=500)
    health = server.get("/health").json()
    assert "node pack needs-cv does not load: ModuleNotFoundError" in health["reason"]
    failed = health["boot"]["custom_nodes_failed"]
    assert [(one["name"], one["error"]) for one in failed] == [
        ("needs-cv", "ModuleNotFoundError: No module named 'cv2'")
    ]
    assert "add its package to `pip`" in health["boot"]["error"]["hint"]
    assert (home.folder / "custom_nodes" / "needs-cv" / ".git").is_dir()


def test_an_optional_pack_that_does_not_load_is_a_warning(start_server, home, tmp_path) -> None:
    """The worker goes without it, and says so."""
    repo = make_pack(tmp_path / "served" / "spare", {"__init__.py": ""})
    pack = {"url": str(repo), "optional": True}
    line = f"   0.1 seconds (IMPORT FAILED): {home.folder}/custom_nodes/spare"
    server = start_server(**home.env({"custom_nodes": [pack]}, IMPORTS, line))
    told = server.get("/health").json()["boot"]
    assert [one["name"] for one in told["custom_nodes_failed"]] == ["spare"]
    assert any("node pack spare" in text for text in told["manifest"]["warnings"])


def test_a_stop_ends_what_the_installation_started(start_server, home, tmp_path) -> None:
    """An install script and its children are gone within seconds; it runs again at the next try."""
    mark = tmp_path / "pid"
    script = (
        "import os, pathlib, time\n"
        f"pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    repo = make_pack(tmp_path / "served" / "slow", {"__init__.py": "", "install.py": script})
    line = f"   0.1 seconds: {home.folder}/custom_nodes/slow"
    env = home.env({"custom_nodes": [str(repo)]}, IMPORTS, line)
    server = start_server(ready=False, **env)
    wait_until("it is told", lambda: "install.py slow" in server.get("/health").json()["reason"])
    pid = int(wait_until("the script runs", lambda: mark.exists() and mark.read_text()))
    assert server.stop(limit_s=8) == 0
    assert not alive(pid)

    commit(repo, {"install.py": "open('done', 'w').close()\n"})
    server.start()
    assert (home.folder / "custom_nodes" / "slow" / "done").exists()
