"""Carries out the Dockerfile in an overlay of this machine's root, and runs what it would start.

`unshare --mount python assemble.py SCRATCH [COMMAND...]`, as root; `IMAGE_X` in the environment is
X for it. What Docker keeps in stages is flattened into one root, the base is this machine's Debian,
and torch and ComfyUI are left out. Nothing outside of SCRATCH changes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from dockerfiles import IMAGE, Stage, read

REPO = IMAGE.parent.parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HIDDEN = ("home", "opt", "root", "source", "steps", "tmp", "var/cache/uv")
BUILT = ("system", "tools", "comfyfn", "salad-worker", "worker")
INHERITED = re.compile("SSL_CERT|PIP_CERT|PIP_INDEX|UV_DEFAULT_INDEX|UV_INDEX|HTTPS?_PROXY")


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def make_root(scratch: Path) -> Path:
    """Give a root with all of this machine's programs, and with folders of its own for ours."""
    mount("-t", "tmpfs", "tmpfs", scratch)
    upper, work, root = (scratch / name for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir()
    layers = f"lowerdir=/,upperdir={upper},workdir={work}"
    mount("-t", "overlay", "overlay", "-o", layers, root)
    for name in HIDDEN:
        (root / name).mkdir(parents=True, exist_ok=True)
        mode = "1777" if name == "tmp" else "755"
        mount("-t", "tmpfs", "-o", f"mode={mode}", "tmpfs", root / name)
    for name in ("proc", "dev"):
        mount("--rbind", f"/{name}", root / name)
    mount("--bind", IMAGE.parent / "steps", root / "steps")
    for line in (IMAGE.parent / "Dockerfile.dockerignore").read_text().splitlines():
        if line.startswith("!"):
            copy([line[1:]], root / "source" / line[1:])
    return root


def copy(sources: list[str], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-r", *(str(REPO / one) for one in sources), str(target)], check=True)


def inside(root: Path, env: dict[str, str], *command: str) -> list[str]:
    """Give the command that runs another one there."""
    words = [f"{name}={text}" for name, text in env.items()]
    return ["chroot", str(root), "/usr/bin/env", "-i", *words, *command]


def carry_out(root: Path, stage: Stage) -> None:
    """Do what a stage says."""
    kept = {name: text for name, text in os.environ.items() if INHERITED.match(name)}
    known = {name: text.strip('"').replace("$PATH", PATH) for name, text in stage.known.items()}
    env = {"PATH": f"/opt/tools/bin:{PATH}", "HOME": "/root", **kept, **known}
    for word, text in stage.steps:
        if word == "RUN":
            line = re.sub(r"--mount=\S+\s*", "", text)
            subprocess.run(inside(root, env, "/bin/sh", "-c", line), check=True)
        elif word == "COPY" and "--from=" not in text:
            *sources, target = text.split()[1:]
            (root / target[1:]).mkdir(parents=True, exist_ok=True)
            copy(sources, root / target[1:])


def container_env(worker: Stage) -> dict[str, str]:
    """Give what ENV has declared, and no ARG."""
    given = {n.removeprefix("IMAGE_"): t for n, t in os.environ.items() if n.startswith("IMAGE_")}
    declared = " ".join(text for word, text in worker.steps if word == "ENV")
    names = {*re.findall(r"(\w+)=", declared), "COMFY_HOME", "COMFY_VENV", "COMFY_PYTHON"}
    return {"PATH": PATH, **{n: t for n, t in worker.known.items() if n in names}, **given}


def main(scratch: Path, command: list[str]) -> int:
    stages, _ = read(IMAGE, TORCH="", EXTRAS="")
    root = make_root(scratch)
    for stage in stages:
        if stage.name in BUILT:
            carry_out(root, stage)
    worker = next(stage for stage in stages if stage.name == "worker")
    user, group = worker.last("USER").split(":")
    run = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    run += command or worker.command("ENTRYPOINT")
    home = ["/bin/sh", "-c", 'cd "$HOME" && exec "$@"', "sh"]
    sys.stdout.write("BUILT\n")
    sys.stdout.flush()
    return subprocess.run(inside(root, container_env(worker), *home, *run), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
