"""`comfyfn serve`."""

from __future__ import annotations

import socket

from live import LiveServer, free_port
from shell import comfyfn


class OnPort(LiveServer):
    """A server whose port is an argument, against the environment's."""

    def start(self, *, ready=True):
        """Start it by a command of its own."""
        import subprocess
        import sys

        from live import REPO

        self.env |= {"PORT": str(free_port()), "HOST": "192.0.2.1", "LOG_LEVEL": "info"}
        command = [sys.executable, "-m", "local_server.cli", "serve"]
        command += ["--port", str(self.port), "--host", "127.0.0.1"]
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                command, cwd=REPO, env=self.env, stdout=sink, stderr=sink
            )
        self.wait_for("/ready" if ready else "/health")
        return self


def test_arguments_win_over_the_environment(tmp_path):
    """The address that is listened on is theirs."""
    server = OnPort(tmp_path).start()
    try:
        assert server.get("/health").json()["status"] == "healthy"
    finally:
        assert server.stop() == 0
    said = server.log.read_text()
    assert f"listening on http://127.0.0.1:{server.port}" in said
    assert f"s: http://127.0.0.1:{server.port} (docs: /docs), embedded engine\n" in said
    assert "comfyfn.comfyui" not in said


def test_a_taken_port_is_an_error_of_one_line(tmp_path):
    """Status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = comfyfn("serve", "--port", port, home=tmp_path)
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert f"port {port} of 127.0.0.1 is taken (end what listens there" in said.stderr


def test_a_port_that_cannot_be_is_an_error_of_one_line(tmp_path):
    """As the same number in the environment."""
    said = comfyfn("serve", "--port", "99999", home=tmp_path)
    assert said.returncode == 2
    assert said.stderr == "comfyfn: settings: PORT='99999' is not between 0 and 65535\n"


def test_no_engine_is_an_error_of_one_line(tmp_path):
    """A mistyped COMFY_HOME ends the start."""
    said = comfyfn("serve", home=tmp_path, COMFY_HOME="/nowhere")
    assert said.returncode == 1
    assert said.stderr.startswith("comfyfn: no ComfyUI is found: /nowhere holds no main.py")


def test_comfyuis_page_needs_a_comfyui(tmp_path):
    """`--ui` with the embedded engine is an error, not a page that is not there."""
    said = comfyfn("serve", "--ui", home=tmp_path)
    assert said.returncode == 1
    assert "no ComfyUI is configured" in said.stderr


def test_a_manifest_with_a_fault_is_refused(tmp_path):
    """Status 2, as for any setting that cannot be used; the fault has its line."""
    said = comfyfn("serve", home=tmp_path, MANIFEST_JSON='{"apts": []}')
    assert said.returncode == 2
    assert said.stderr.startswith("comfyfn: settings: MANIFEST_JSON has 1 fault:\n  line 1")
    assert list(tmp_path.rglob("comfyfn-*")) == []
