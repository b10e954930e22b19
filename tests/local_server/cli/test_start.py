"""`comfyfn start`, as the image runs it: for each platform's environment, as a process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from live import READY_LIMIT_S, REPO, LiveServer, free_port
from platforms.runpod_double import RunpodDouble, RunpodWorker
from platforms.salad_double import ImdsDouble
from shell import comfyfn

from local_server.cli.start import platform_of
from local_server.platforms import choose

GRAPH = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}
COMMAND = [sys.executable, "-m", "local_server.cli", "start"]
BALANCED = (
    "RUNPOD_ENDPOINT_ID is set, RUNPOD_WEBHOOK_GET_JOB is not: a load-balancing endpoint of RunPod"
)
SALAD = {"SALAD_MACHINE_ID": "m-1", "SALAD_INSTANCE_ID": "i-1"}


class Started(LiveServer):
    """A container whose entry point is `comfyfn start`."""

    def start(self, *, ready=True):
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                COMMAND, cwd=REPO, env=self.env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )
        self.wait_for("/ready" if ready else "/health", READY_LIMIT_S[self.engine])
        return self

    def lines(self):
        return self.log.read_text().splitlines()


class StartedWorker(RunpodWorker):
    """A worker of a RunPod queue whose entry point is `comfyfn start`."""

    def start(self, *arguments, polling=True):
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                COMMAND, cwd=REPO, env=self.env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )
        self.wait_polling()
        return self


def serving(home, **env):
    server = Started(home, **env)
    try:
        server.start()
        answer = server.prompt(GRAPH)
        assert answer.status_code == 200, answer.text
    finally:
        if server.process is not None:
            assert server.stop() == 0
    return server


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({}, "no platform's variables are set"),
        (
            {"RUNPOD_ENDPOINT_ID": "e", "RUNPOD_POD_ID": "p"},
            BALANCED,
        ),
        ({"RUNPOD_POD_ID": "p"}, "RUNPOD_POD_ID is set: a RunPod pod, which has no queue"),
        ({"MODAL_TASK_ID": "t", "ADAPTER": "http"}, "ADAPTER=http"),
    ],
)
def test_http_is_served(tmp_path, env, reason):
    """The adapter and the reason are the first line."""
    server = serving(tmp_path, HOST="127.0.0.1", **env)

    first = server.lines()[0]
    assert re.search(r"INFO +comfyfn\.start: ", first)
    assert first.endswith(f"adapter http: {reason}")
    said = server.log.read_text()
    assert f"listening on http://127.0.0.1:{server.port}" in said
    assert said.count("adapter http") == 1


def test_a_container_listens_on_all_addresses(tmp_path):
    """Its port could not be reached otherwise; a warning tells."""
    said = serving(tmp_path).log.read_text()
    assert re.search(r"listening on http://0\.0\.0\.0:\d+", said)
    assert "open to the network without authentication (HOST=0.0.0.0)" in said


def test_a_load_balancer_has_its_ping_on_its_own_port(tmp_path):
    """PORT_HEALTH."""
    import httpx

    port = free_port()
    server = Started(tmp_path, HOST="127.0.0.1", RUNPOD_ENDPOINT_ID="e", PORT_HEALTH=str(port))
    try:
        server.start()
        asked = httpx.get(f"http://127.0.0.1:{port}/ping", trust_env=False, timeout=10)
        assert asked.status_code == 200
    finally:
        assert server.stop() == 0


def test_a_load_balancers_limits_are_told_before_they_cut(tmp_path):
    """An answer of more than 30 MB, and one that takes more than 5.5 minutes, never arrive."""
    graph = {"1": {"class_type": "TestFile", "inputs": {"name": "a.bin", "size_bytes": 22 << 20}}}
    env = {"HOST": "127.0.0.1", "RUNPOD_ENDPOINT_ID": "e", "COMFYFN_TEST_FAULTS": "true"}
    server = Started(tmp_path, **env)
    try:
        server.start()
        refused = server.prompt(graph)
    finally:
        assert server.stop() == 0
    assert (refused.status_code, refused.json()["code"]) == (422, "result_too_large")

    balanced = platform_of(choose({"RUNPOD_ENDPOINT_ID": "e"}))
    assert 300 < balanced.answer_within_s < 330
    assert balanced.inline_bytes < 30_000_000
    for env in ({}, {"RUNPOD_POD_ID": "p"}):
        plain = platform_of(choose(env))
        assert (plain.inline_bytes, plain.answer_within_s) == (0, 0)


def test_a_worker_of_a_runpod_queue(tmp_path):
    """With RunPod's SDK: it takes a job, answers it, and ends well."""
    double = RunpodDouble().start()
    worker = StartedWorker(double, tmp_path)
    try:
        worker.start()
        result = double.run({"prompt": GRAPH})
        assert result["output"]["filenames"]
        assert worker.end(signal.SIGTERM) == 0
    finally:
        worker.close()
        double.close()
    first = worker.text().splitlines()[0]
    assert "adapter runpod: RUNPOD_WEBHOOK_GET_JOB is set: a worker of a RunPod queue" in first


def test_a_container_of_salad(tmp_path):
    """For IPv6 and IPv4, and its lines name the instance."""
    imds = ImdsDouble()
    env = {**SALAD, "SALAD_METADATA_URI": imds.url, "LOG_FORMAT": "json"}
    try:
        server = serving(tmp_path, **env)
    finally:
        imds.close()
    lines = [json.loads(line) for line in server.lines() if line.startswith("{")]
    reason = "SALAD_MACHINE_ID is set: a container of SaladCloud"
    assert lines[0]["message"] == f"adapter salad: {reason}"
    assert {line["instance"] for line in lines[1:]} == {"i-1"}


def test_modal_is_refused_with_the_remedy(tmp_path):
    """It imports the app itself; a server beside it would hold the GPU for nobody."""
    said = comfyfn("start", home=tmp_path, MODAL_TASK_ID="ta-1")
    assert said.returncode == 1
    first, last = said.stderr.splitlines()
    assert first.endswith("adapter modal: MODAL_TASK_ID is set: a container of Modal")
    assert last.startswith("comfyfn: Modal starts its app itself")
    assert "deploy adapters/modal_app.py" in last


@pytest.mark.skipif(
    os.getuid() == 0 and shutil.which("setpriv") is None, reason="root may write everywhere"
)
def test_a_folder_that_may_not_be_written_to_is_told(tmp_path):
    """A network volume is root's as a rule, and the image's user is not."""
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o555)
    # Root without the right to pass over what a folder's mode says.
    modest = ["setpriv", "--bounding-set=-dac_override"] if os.getuid() == 0 else []
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LOG_FORMAT": "text",
        "ADAPTER": "modal",
        "CACHE_DIR": str(volume / "cache"),
        "MODEL_DIR": str(volume / "models"),
        "WORK_DIR": str(tmp_path / "work"),
    }
    said = subprocess.run(
        [*modest, *COMMAND], cwd=REPO, env=env, capture_output=True, text=True, check=False
    )
    warned = [line for line in said.stderr.splitlines() if "WARNING" in line]
    assert len(warned) == 2, said.stderr
    for line, told in zip(warned, ("CACHE_DIR={}/cache", "MODEL_DIR={}/models"), strict=True):
        assert f"{told.format(volume)} cannot be written to by user {os.getuid()}, " in line
        assert "RUN_AS=0" in line


@pytest.mark.comfyui
def test_comfyuis_page_can_be_reached_from_outside_of_a_container(tmp_path):
    """COMFY_ARGS wins, as the profile `design` needs it; the server still finds its engine."""
    import httpx

    env = {"COMFYFN_UI": "true", "COMFY_ARGS": "--listen 127.0.0.1,127.0.0.2"}
    server = Started(tmp_path, "comfyui", **env)
    try:
        server.start()
        # Another address of this machine than the one that an engine is bound to otherwise.
        page = httpx.get(f"http://127.0.0.2:{server.engine_port}/", trust_env=False, timeout=10)
        assert page.headers["content-type"].startswith("text/html")
        assert server.prompt(GRAPH).status_code == 200
    finally:
        assert server.stop() == 0


def test_no_comfyui_is_an_error_of_the_image(tmp_path):
    """The embedded engine stands in for nobody here, unless it is asked for."""
    said = comfyfn("start", home=tmp_path)
    assert said.returncode == 1
    assert "comfyfn: no ComfyUI is found" in said.stderr


def test_an_adapter_that_there_is_not_is_wrong_usage(tmp_path):
    """All that there are are named."""
    said = comfyfn("start", home=tmp_path, ADAPTER="lambda")
    assert said.returncode == 2
    assert "ADAPTER='lambda' is none of auto, http, runpod, salad, modal" in said.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "http: no platform's variables are set\n"),
        ({"RUNPOD_WEBHOOK_GET_JOB": "x", "ADAPTER": "salad"}, "salad: ADAPTER=salad\n"),
        (SALAD, "salad: SALAD_MACHINE_ID is set: a container of SaladCloud\n"),
        ({"MODAL_TASK_ID": "t"}, "modal: MODAL_TASK_ID is set: a container of Modal\n"),
    ],
)
def test_what_would_be_run_can_be_asked(tmp_path, env, said):
    """`--print` starts nothing."""
    found = comfyfn("start", "--print", home=tmp_path, **env)
    assert (found.returncode, found.stdout, found.stderr) == (0, said, "")


def test_the_choice_loads_nothing_that_the_adapter_does_not():
    """Neither an SDK nor a web framework, before the engine is launched."""
    heavy = ("runpod", "modal", "starlette", "uvicorn", "httpx", "aiohttp", "pydantic", "orjson")
    program = (
        "import sys; from local_server.cli import main; main(['start', '--print']);"
        f"print([m for m in {heavy!r} if m in sys.modules],"
        "[m for m in sys.modules if m.startswith('adapters.')])"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert said.stdout.endswith("\n[] []\n")
