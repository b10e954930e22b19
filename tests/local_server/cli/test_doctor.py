"""`comfyfn doctor`: what was found, what is missing, and why."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from live import free_port
from shell import comfyfn

from handler.settings import Settings
from handler.version import VERSION
from local_server.cli.doctor import examine

GOOD = {
    "torch": {"__version__": "2.6.0", "cuda": "12.4", "hip": None},
    "gpu": {"driver_cuda": [12, 4], "devices": [{"name": "a GPU", "vram_bytes": 1 << 30}]},
}
BAD = {**GOOD, "gpu": {"error": "no driver is visible"}}


@pytest.fixture
def home(tmp_path):
    """A folder that looks like ComfyUI; its interpreter answers what stands in `found`."""
    python = tmp_path / "comfy" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / "comfy" / "main.py").touch()
    python.write_text(f"#!/bin/sh\ncat {tmp_path}/found\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "found").write_text(json.dumps(GOOD))
    return tmp_path / "comfy"


def findings(**env):
    """Give topic -> (level, text) of an examination; free ports unless told otherwise."""
    env = {"PORT": str(free_port()), "COMFYUI_PORT_HOST": str(free_port()), **env}
    found = examine(Settings.from_env(env))
    return {finding.topic: (finding.level, finding.text) for finding in found}


def test_a_machine_without_comfyui_is_fine_for_trying(tmp_path):
    """Status 0; what is only less than it could be is a warning."""
    said = comfyfn("doctor", home=tmp_path)
    lines = said.stdout.splitlines()

    assert said.returncode == 0, said.stdout
    assert lines[0].startswith(f"ok    comfyfn       {VERSION} on Python 3.")
    assert "warn  engine        the embedded CPU engine" in said.stdout
    assert not (tmp_path / ".cache").exists()


def test_what_would_not_run_is_status_1(tmp_path):
    """And says what to set."""
    said = comfyfn("doctor", home=tmp_path, COMFY_HOME="/nowhere")
    assert said.returncode == 1
    assert "BAD   engine        no ComfyUI is found: /nowhere holds no main.py; set" in said.stdout


def test_a_comfyui_with_a_gpu_is_told(home):
    """Where it is, on which interpreter, torch and GPU."""
    found = findings(COMFY_HOME=str(home))

    assert found["engine"] == ("ok", f"ComfyUI in {home}")
    assert found["interpreter"] == ("ok", f"{home}/.venv/bin/python, torch 2.6.0")
    assert found["gpu"] == ("ok", "a GPU, 1024 MiB")
    assert f"{home}/models" in found["models"][1]


@pytest.mark.parametrize(("allow", "level"), [("false", "bad"), ("true", "warn")])
def test_a_gpu_that_cannot_be_used_is_bad_unless_it_may_be_missing(home, allow, level):
    """With the reason."""
    (home.parent / "found").write_text(json.dumps(BAD))
    found = findings(COMFY_HOME=str(home), ALLOW_CPU=allow)
    assert found["gpu"][0] == level
    assert "no driver is visible" in found["gpu"][1]
    told = {"false": "ALLOW_CPU=true would go without", "true": "ALLOW_CPU is set"}
    assert told[allow] in found["gpu"][1]


@pytest.mark.parametrize("allow", ["false", "true"])
def test_an_interpreter_without_torch_is_bad(home, allow):
    """Even where a GPU may be missing: ComfyUI cannot start with it."""
    (home.parent / "found").write_text(json.dumps({**BAD, "torch": None}))
    found = findings(COMFY_HOME=str(home), ALLOW_CPU=allow)
    level, text = found["interpreter"]
    assert level == "bad"
    assert f"{home} would run with the Python ({home}/.venv/bin/python), which has no" in text
    assert "gpu" not in found


def test_a_comfyui_without_an_interpreter_of_its_own_would_get_ours(home):
    """That is told: ours has no torch."""
    (home / ".venv" / "bin" / "python").unlink()
    level, text = findings(COMFY_HOME=str(home))["interpreter"]
    assert level == "bad"
    assert "comfyfn's own Python" in text
    assert "set COMFY_PYTHON to ComfyUI's Python" in text


def test_an_interpreter_that_cannot_be_run_is_bad(home):
    """It is named."""
    found = findings(COMFY_HOME=str(home), COMFY_PYTHON="/nowhere/python")
    assert found["interpreter"][0] == "bad"
    assert "/nowhere/python" in found["interpreter"][1]


def test_a_command_is_told_and_its_gpu_checked_where_its_interpreter_is_known(home):
    """Else that is a warning."""
    alone = findings(CMD="python main.py")
    assert alone["engine"] == ("ok", "ComfyUI by CMD: python main.py")
    assert alone["gpu"][0] == "warn"
    known = findings(CMD="python main.py", COMFY_HOME=str(home))
    assert known["gpu"] == ("ok", "a GPU, 1024 MiB")


@contextlib.contextmanager
def comfyui(body):
    """Something that answers /system_stats."""

    class Stats(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Stats) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_an_attached_comfyui_is_asked():
    """No folders and no port of its own are looked at."""
    with comfyui(b'{"system": {"comfyui_version": "0.3.64"}}') as url:
        found = findings(COMFY_URL=url)
    assert found["engine"] == ("ok", f"ComfyUI 0.3.64 at {url}")
    assert "input" not in found


@pytest.mark.parametrize("body", [b"no json", b"{}"])
def test_what_is_no_comfyui_is_bad(body):
    """Somebody else answers there."""
    with comfyui(body) as url:
        assert findings(COMFY_URL=url)["engine"][0] == "bad"


def test_a_comfyui_that_does_not_answer_is_bad():
    """The URL is told."""
    level, text = findings(COMFY_URL=f"http://127.0.0.1:{free_port()}")["engine"]
    assert level == "bad"
    assert "COMFY_URL=http://127.0.0.1" in text


def test_an_address_that_cannot_be_is_one_line(tmp_path):
    """Before anything is asked of it."""
    said = comfyfn("doctor", home=tmp_path, COMFY_URL="http://[::1")
    assert said.returncode == 2
    assert said.stderr.startswith("comfyfn: settings: COMFY_URL='http://[::1' is no URL: ")
    assert said.stderr.count("\n") == 1


@pytest.mark.parametrize("url", ["http://a..b", "http://xn--/", "http://\u2024"])
def test_an_address_that_only_the_client_refuses_is_bad(url):
    """What looks like a URL may be none yet."""
    assert findings(COMFY_URL=url)["engine"][0] == "bad"


@pytest.mark.parametrize("name", ["PORT", "COMFYUI_PORT_HOST"])
def test_a_taken_port_is_bad(name):
    """By the variable that moves it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = {"PORT": str(free_port()), name: str(taken.getsockname()[1])}
        if name != "COMFYUI_PORT_HOST":
            env["COMFYUI_PORT_HOST"] = str(free_port())
        found = examine(Settings.from_env(env))
    whose = {"PORT": "port (server)", "COMFYUI_PORT_HOST": "port (engine)"}
    assert [f.topic for f in found if f.level == "bad"] == [whose[name]]


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({}, ("warn", "none: the first request loads the model")),
        ({"WARMUP_PROMPT_JSON": "{}"}, ("ok", "WARMUP_PROMPT_JSON")),
        ({"WARMUP_PROMPT_URL": "http://h"}, ("ok", "WARMUP_PROMPT_URL")),
    ],
)
def test_the_warmup_is_told(home, env, told):
    """Without one the first caller waits."""
    assert findings(COMFY_HOME=str(home), **env)["warmup"] == told


def test_an_engine_without_models_needs_no_warmup():
    """The embedded one has nothing to load."""
    assert "warmup" not in findings()


def test_folders_are_told_with_their_space_and_not_made(tmp_path):
    """Looking changes nothing."""
    found = findings(INPUT_DIR=str(tmp_path / "a" / "b"), OUTPUT_DIR=str(tmp_path))
    assert "will be made" in found["input"][1]
    assert "will be made" not in found["output"][1]
    assert "GiB free" in found["output"][1]
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("graph", "told"),
    [
        ({"3": {"class_type": "KSampler", "inputs": {"steps": 20}}}, "node 3: 20 steps"),
        ({"5": {"inputs": {"width": 512, "height": 512}}}, "node 5: 512x512"),
        ({"prompt": {"5": {"inputs": {"width": 512, "height": 256}}}}, "node 5: 512x256"),
        ({"3": {"inputs": {"steps": 4, "width": 256, "height": 256}}, "4": 5}, None),
        ({"3": {"inputs": {"steps": ["1", 0]}}}, None),
    ],
)
def test_a_warmup_that_does_more_than_it_must_is_told(home, graph, told):
    """Four steps of 256x256 load a model as well as any more."""
    env = {"PORT": str(free_port()), "COMFYUI_PORT_HOST": str(free_port())}
    settings = Settings.from_env(
        {**env, "COMFY_HOME": str(home), "WARMUP_PROMPT_JSON": json.dumps(graph)}
    )
    texts = [f"{f.level} {f.text}" for f in examine(settings) if f.topic == "warmup"]
    assert texts[0] == "ok WARMUP_PROMPT_JSON"
    assert [text.partition(";")[0] for text in texts[1:]] == ([f"warn {told}"] if told else [])


@pytest.mark.parametrize("text", ["no json", "[]"])
def test_a_warmup_that_cannot_be_read_is_bad(home, text):
    """The boot would fail for it."""
    level, _ = findings(COMFY_HOME=str(home), WARMUP_PROMPT_JSON=text)["warmup"]
    assert level == "bad"


def test_the_findings_are_had_as_json(tmp_path):
    """Level, topic and text; the status is the same."""
    said = comfyfn("doctor", "--json", "--quick", home=tmp_path, COMFY_HOME="/nowhere")
    listed = json.loads(said.stdout)
    assert said.returncode == 1
    assert set(listed[0]) == {"level", "topic", "text"}
    assert [one["topic"] for one in listed if one["level"] == "bad"] == ["engine"]
