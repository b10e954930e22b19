"""Packs of custom nodes, as git repositories of this machine."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NODE = """\
class {name}:
    CATEGORY, FUNCTION, OUTPUT_NODE = "test", "run", True
    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {{"required": {{}}}}

    def run(self):
        return {{"ui": {{"text": ["{name}"]}}}}


NODE_CLASS_MAPPINGS = {{"{name}": {name}}}
"""


def make_pack(folder: Path, files: dict[str, str], branch: str = "main") -> Path:
    """Make a repository whose files are on a branch; on `main` there is nothing but a read-me."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, {"README.md": "a pack\n"})
    if branch != "main":
        git(folder, "checkout", "--quiet", "-b", branch)
    commit(folder, files)
    if branch != "main":
        git(folder, "checkout", "--quiet", "main")
    return folder


def commit(folder: Path, files: dict[str, str]) -> str:
    """Commit files and give the commit."""
    for name, text in files.items():
        (folder / name).write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "change")
    return git(folder, "rev-parse", "HEAD")


def git(folder: Path, *words: str) -> str:
    """Run git with settings of its own."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        **{f"GIT_{who}_NAME": "T" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "t@example.org" for who in ("AUTHOR", "COMMITTER")},
    }
    done = subprocess.run(
        ["git", *words], cwd=folder, env=env, check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout.strip()
