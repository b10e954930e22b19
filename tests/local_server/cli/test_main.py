"""`python -m local_server.cli` is the command."""

from __future__ import annotations

from shell import comfyfn


def test_its_status_is_the_processes(tmp_path):
    """What a shell script asks for."""
    assert comfyfn("--help", home=tmp_path).returncode == 0
    assert comfyfn("--nope", home=tmp_path).returncode == 2
