"""The Dockerfile carried out without Docker, and its entry point run as a container would."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from dockerfiles import STEPS
from live import children, free_port

PROGRAM = Path(__file__).with_name("assemble.py")
pytestmark = [
    pytest.mark.apt,
    pytest.mark.registry,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.getuid() != 0
        or shutil.which("unshare") is None
        or not (os.environ.get("COMFYFN_TEST_APT") and os.environ.get("COMFYFN_TEST_REGISTRY")),
        reason="carries out the Dockerfile: root, COMFYFN_TEST_APT and COMFYFN_TEST_REGISTRY",
    ),
]


def below(pid: int) -> list[int]:
    """List the processes that a process has started, and those that they have."""
    own = children(pid)
    return own + [one for child in own for one in below(child)]


def command_of(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-5000:]
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(log.read_text()[-5000:])


def test_the_image_serves_as_its_own_user_under_tini(tmp_path):
    """Every RUN but torch's for real, then the entry point: from its start to a good end."""
    scratch, log, port = tmp_path / "scratch", tmp_path / "log", free_port()
    scratch.mkdir()
    env = {
        **os.environ,
        "IMAGE_ENGINE": "embedded",
        "IMAGE_HOST": "127.0.0.1",
        "IMAGE_PORT": str(port),
        "IMAGE_COMFYUI_PORT_HOST": str(free_port()),
        "IMAGE_LOG_FORMAT": "text",
    }
    with log.open("wb") as sink:
        command = ["unshare", "--mount", sys.executable, str(PROGRAM), str(scratch)]
        process = subprocess.Popen(command, env=env, stdout=sink, stderr=sink)
    try:
        wait_for(f"http://127.0.0.1:{port}/ready", process, log)
        tini = next(pid for pid in below(process.pid) if command_of(pid)[:1] == ["tini"])
        server = children(tini)[0]
        status = Path(f"/proc/{server}/status").read_text()
        assert "\nUid:\t10001\t10001\t10001\t10001\n" in status
        assert "\nGid:\t0\t0\t0\t0\n" in status
        assert "libtcmalloc_minimal.so.4" in Path(f"/proc/{server}/maps").read_text()
        assert command_of(server)[0].startswith("/opt/comfyfn/bin/")
        health = subprocess.run(
            [sys.executable, "-I", str(STEPS / "health.py")], env={"PORT": str(port)}, check=False
        )
        assert health.returncode == 0
        os.kill(tini, signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-5000:]
    finally:
        if process.poll() is None:
            for pid in [*below(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
    ran = log.read_text().rpartition("BUILT\n")[2]
    assert "adapter http: no platform's variables are set" in ran
    assert list(scratch.iterdir()) == [], "the overlay is gone with its namespace"
