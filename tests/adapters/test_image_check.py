"""The boot that proves an image while it is built."""

from __future__ import annotations

import subprocess
import sys

from live import REPO, free_port


def check(tmp_path, **env):
    """Run the check as a build step does."""
    return subprocess.run(
        [sys.executable, "-m", "adapters.image_check"],
        cwd=REPO,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "LOG_FORMAT": "text",
            "COMFYUI_PORT_HOST": str(free_port()),
            **env,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_image_whose_engine_boots_is_fine(tmp_path):
    """No warmup is run, and no GPU is asked for."""
    said = check(tmp_path, ENGINE="embedded", WARMUP_PROMPT_URL="http://127.0.0.1:9/none")
    assert said.returncode == 0, said.stderr
    assert "ComfyUI boots" in said.stdout + said.stderr


def test_an_image_without_comfyui_fails(tmp_path):
    """The build ends there, with the reason."""
    said = check(tmp_path, COMFY_HOME=str(tmp_path / "none"))
    assert said.returncode == 1
    assert "none" in said.stdout + said.stderr


def test_a_manifest_with_faults_fails(tmp_path):
    """Likewise."""
    said = check(tmp_path, ENGINE="embedded", MANIFEST_JSON='{"nodes": []}')
    assert said.returncode == 1
    assert "nodes" in said.stdout + said.stderr
