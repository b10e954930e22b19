"""The version."""

from __future__ import annotations

import tomllib
from pathlib import Path

from handler.version import VERSION


def test_the_version_is_that_of_the_package():
    """It is written twice; this holds the two together."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())

    assert project["project"]["version"] == VERSION
