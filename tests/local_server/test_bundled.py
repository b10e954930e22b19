"""What ships with the package is found."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from live import REPO

from local_server.bundled import SAMPLE, bundled


def test_the_sample_of_the_checkout_is_found():
    """Beside the packages."""
    assert bundled(SAMPLE) == REPO / SAMPLE


def test_an_installed_wheel_has_its_own(tmp_path):
    """Inside the package; it wins over what lies beside."""
    for package in ("handler", "local_server"):
        shutil.copytree(REPO / package, tmp_path / package, ignore=shutil.ignore_patterns("*.pyc"))
    inside = tmp_path / "handler" / "_bundled" / SAMPLE
    inside.parent.mkdir(parents=True)
    inside.touch()
    program = "from local_server.bundled import *; print(bundled(SAMPLE))"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert said.stdout.strip() == str(inside)


def test_what_did_not_ship_is_named():
    """Not a path that leads nowhere."""
    with pytest.raises(FileNotFoundError, match=r"workflows/none\.json is not part"):
        bundled("workflows/none.json")
