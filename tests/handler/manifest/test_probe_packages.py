"""The probe, run by an interpreter as it is: without us and without any package."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

from live import REPO
from packaging.markers import default_environment

PROBE = REPO / "handler" / "manifest" / "probe_packages.py"


def probed(folder):
    program = [sys.executable, "-S", str(PROBE)]
    env = {"PYTHONPATH": str(folder)}
    said = subprocess.run(program, env=env, capture_output=True, check=True, timeout=20)
    return json.loads(said.stdout)


def test_names_and_versions_are_read_from_the_folders(tmp_path):
    """Without opening them; what pip left behind halfway is no package."""
    for name in ("leaf-1.10.dist-info", "~eaf-1.9.dist-info", "leaf", "notes-1.txt"):
        (tmp_path / name).mkdir()
    path = str(tmp_path / "leaf-1.10.dist-info")
    assert probed(tmp_path)["packages"] == [{"name": "leaf", "version": "1.10", "path": path}]


def test_old_installs_and_addresses_are_known_too(tmp_path):
    """An egg's metadata is read; a package from an address has that."""
    (tmp_path / "old.egg-info").mkdir()
    (tmp_path / "old.egg-info" / "PKG-INFO").write_text("Name: Old\nVersion: 2\n")
    direct = tmp_path / "own-3.dist-info"
    direct.mkdir()
    (direct / "direct_url.json").write_text('{"url": "https://e.org/own.zip"}')
    assert probed(tmp_path)["packages"] == [
        {"name": "Old", "version": "2", "path": str(tmp_path / "old.egg-info")},
        {
            "name": "own",
            "version": "3",
            "path": str(direct),
            "direct_url": {"url": "https://e.org/own.zip"},
        },
    ]


def test_the_environment_is_that_of_markers(tmp_path):
    """The same that pip would use."""
    assert probed(tmp_path)["environment"] == dict(default_environment())


def test_it_needs_the_standard_library_only():
    """And syntax of Python 3.9."""
    tree = ast.parse(PROBE.read_text(), feature_version=(3, 9))
    names = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names
