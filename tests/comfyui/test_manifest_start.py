"""A manifest with everything, on a copy of a real ComfyUI: the start, the lock, the differences."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from behaviour.driving import wait_until
from behaviour.packs import NODE, git, make_pack
from behaviour.range_server import RangeServer, range_server
from live import COMFY_HOME, COMFY_PYTHON, LiveServer
from shell import comfyfn

from handler.manifest.packages import find_uv

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(300)]

MB = 1_000_000
LEFT_OUT = ("models", "input", "output", "temp", "user", ".git")
WEIGHTS = random.Random(1).randbytes(16 * MB)
LATER = random.Random(2).randbytes(2 * MB)
# A package from the index needs the network, one of Debian's root besides.
INDEX = os.environ.get("COMFYFN_TEST_INDEX")
APT = os.environ.get("COMFYFN_TEST_APT")


@dataclass(frozen=True)
class Comfy:
    """A ComfyUI of the test's own, which may be installed into."""

    home: Path
    python: Path

    @property
    def env(self) -> dict[str, str]:
        """Name it."""
        return {"COMFY_HOME": str(self.home), "COMFY_PYTHON": str(self.python)}

    def version_of(self, package: str) -> str:
        """Give a package's version, as the interpreter tells it."""
        program = f"import importlib.metadata as m; print(m.version({package!r}))"
        done = subprocess.run([self.python, "-c", program], capture_output=True, text=True)
        return done.stdout.strip()


def linked(source: str, target: str) -> None:
    """Copy a file by a link where that can be: installers replace files, and write into none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def comfy_in(folder: Path) -> Comfy:
    """Copy ComfyUI without its models, and its interpreter with all packages."""
    home, venv = folder / "ComfyUI", folder / "venv"
    home.mkdir(parents=True)
    for source in Path(COMFY_HOME).iterdir():
        if source.is_dir() and source.name not in LEFT_OUT:
            shutil.copytree(source, home / source.name)
        elif source.is_file():
            shutil.copy2(source, home)
    for name in ("models", "input", "output"):
        (home / name).mkdir(exist_ok=True)
    given = Path(COMFY_PYTHON or sys.executable).absolute().parents[1]
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(given, venv, copy_function=linked, symlinks=True, ignore=leave)
    return Comfy(home, venv / "bin" / "python")


@pytest.fixture(scope="module")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Comfy:
    """Give a ComfyUI that the tests of this file install into."""
    return comfy_in(tmp_path_factory.mktemp("comfy"))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with small packages for uv to find."""
    folder = tmp_path_factory.mktemp("wheels")
    for name, version in (("comfyfn-leaf", "1.0"), ("comfyfn-leaf", "2.0"), ("comfyfn-own", "1.0")):
        project = folder / "src" / f"{name}-{version}"
        project.mkdir(parents=True)
        module = name.replace("-", "_")
        (project / f"{module}.py").write_text("")
        (project / "PKG-INFO").write_text("")
        _wheel(folder, name, version)
    return folder


def _wheel(folder: Path, name: str, version: str) -> None:
    import base64
    import hashlib
    import zipfile

    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{path},sha256={digest.decode()},{len(text)}\n"
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as packed:
        for path, text in files.items():
            packed.writestr(path, text)


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make three packs: one with requirements, one with install.py, one on a branch with `/`."""
    served = tmp_path_factory.mktemp("served")
    needs = "import comfyfn_leaf\n" + NODE.format(name="WithRequirements")
    make_pack(
        served / "with-requirements",
        {"__init__.py": needs, "requirements.txt": "comfyfn-leaf==1.0\n"},
    )
    script = "import pathlib\npathlib.Path('made.txt').write_text('made')\n"
    reads = "import pathlib\npathlib.Path(__file__).with_name('made.txt').read_text()\n"
    make_pack(
        served / "with-script",
        {
            "__init__.py": reads + NODE.format(name="WithScript"),
            "install.py": script,
            ".gitignore": "made.txt\n__pycache__\n",
        },
    )
    plain = {"__init__.py": NODE.format(name="OnBranch"), ".gitignore": "__pycache__\n"}
    make_pack(served / "on-branch", plain, branch="feature/x")
    return served


@pytest.fixture(scope="module")
def host() -> Iterator[RangeServer]:
    """Give a file server whose connections are slow: the overlap is to be seen."""
    with range_server(MB) as running:
        yield running


def manifest(packs: Path, host: RangeServer) -> dict[str, Any]:
    """Give a manifest with some of everything."""
    return {
        "apt": ["dpkg", *(["sl"] if APT else [])],
        "pip": ["comfyfn-own", *(["cowsay==6.1"] if INDEX else [])],
        "custom_nodes": [
            str(packs / "with-requirements"),
            str(packs / "with-script"),
            {"url": str(packs / "on-branch"), "ref": "feature/x"},
        ],
        "models": {
            "before_start": [{"url": host.put("/w.bin", WEIGHTS), "folder": "vae"}],
            "after_start": [
                {"url": host.put("/l.bin", LATER), "local_path": "models/loras/l.bin"},
                {"url": host.url("/gone.bin"), "folder": "loras"},
            ],
        },
        "preload": ["w.bin"],
        "requires": {"vram_gb": 4, "ram_gb": 1},
    }


def environment(comfy: Comfy, wheels: Path, **manifest_as: str) -> dict[str, str]:
    """Give what a server or a command installs with."""
    return {
        **comfy.env,
        **(_network() if INDEX else {"UV_OFFLINE": "1"}),
        "UV_FIND_LINKS": str(wheels),
        "MANIFEST_LOCAL_GIT": "true",
        "ALLOW_CPU": "true",
        **manifest_as,
    }


def _network() -> dict[str, str]:
    """Give what this machine's way to the index takes."""
    prefixes = ("SSL_", "PIP_", "UV_", "HTTP", "http", "no_proxy", "NO_PROXY")
    return {name: text for name, text in os.environ.items() if name.startswith(prefixes)}


def started(home: Path, env: dict[str, str]) -> LiveServer:
    """Make a server; its INPUT_DIR and OUTPUT_DIR are its own."""
    return LiveServer(home, "comfyui", **env)


def steps(server: LiveServer) -> dict[str, dict[str, Any]]:
    """Give the timeline's records by name."""
    told = server.get("/health").json()["boot"]["manifest"]["steps"]
    return {step["name"]: step for step in told}


def test_everything_is_there_and_came_side_by_side(tmp_path, comfy, wheels, packs, host) -> None:
    """Packs before the engine, models beside it all, others after; the second start is short."""
    names = ("WithRequirements", "WithScript", "OnBranch")
    graph = {str(n): {"class_type": name, "inputs": {}} for n, name in enumerate(names)}
    text = json.dumps(manifest(packs, host))
    env = environment(comfy, wheels, MANIFEST_JSON=text, WARMUP_PROMPT_JSON=json.dumps(graph))
    server = started(tmp_path / "one", env)
    try:
        server.start()
        told = steps(server)
        show_chart(server)
        model, boot = told["model w.bin"], told["engine boot"]
        assert model["start"] < told["pip"]["start"] < boot["start"]
        assert boot["start"] >= max(told[f"install.py {n}"]["end"] for n in ("with-script",))
        assert min(model["end"], boot["end"]) - boot["start"] > 1
        assert told["warmup"]["start"] >= max(model["end"], boot["end"])
        assert (comfy.home / "models" / "vae" / "w.bin").read_bytes() == WEIGHTS
        assert comfy.version_of("comfyfn-leaf") == comfy.version_of("comfyfn-own") == "1.0"
        warnings = server.get("/health").json()["boot"]["manifest"]["warnings"]
        assert any("4 GB of VRAM" in warning for warning in warnings)
        later = comfy.home / "models" / "loras" / "l.bin"
        wait_until("the later one comes", later.exists, 30)
        wait_until("the other one fails", lambda: steps(server)["after start: gone.bin"]["end"], 30)
        assert server.get("/health").json()["phase"] == "ready"
    finally:
        server.stop()

    asked, server = host.asked, started(tmp_path / "two", env)
    try:
        server.start()
        told = steps(server)
        show_chart(server)
        # Nothing but the one that is still not there was asked for.
        wait_until("the other one fails", lambda: steps(server)["after start: gone.bin"]["end"], 30)
        assert host.asked - asked <= 2
        assert told["engine boot"]["start"] < 3
    finally:
        server.stop()


def show_chart(server: LiveServer) -> None:
    """Show the chart that the log has, for `pytest -s`."""
    for line in server.log.read_text().splitlines():
        told = line.partition("comfyfn.manifest: ")[2]
        if re.search(r"\|.{40}\| +\d", told):
            sys.stdout.write(f"{told}\n")


def test_a_pack_that_does_not_load_is_named(tmp_path, comfy, wheels) -> None:
    """With what ComfyUI said, and what to do; marked optional it is a warning."""
    pack = make_pack(tmp_path / "served" / "broken", {"__init__.py": "import no_such_module_x\n"})
    text = json.dumps({"custom_nodes": [str(pack)]})
    server = started(tmp_path / "one", environment(comfy, wheels, MANIFEST_JSON=text))
    try:
        server.start(ready=False)
        server.wait_for("/health", 120, status=500)
        health = server.get("/health").json()
        assert "node pack broken does not load: ModuleNotFoundError" in health["reason"]
        assert "no_such_module_x" in health["boot"]["error"]["hint"]
        assert any("no_such_module_x" in line for line in health["boot"]["error"]["log_tail"])
    finally:
        server.stop()

    text = json.dumps({"custom_nodes": [{"url": str(pack), "optional": True}]})
    server = started(tmp_path / "two", environment(comfy, wheels, MANIFEST_JSON=text))
    try:
        server.start()
        boot = server.get("/health").json()["boot"]
        assert [one["name"] for one in boot["custom_nodes_failed"]] == ["broken"]
        assert "node pack broken" in boot["manifest"]["warnings"][0]
    finally:
        server.stop()
        shutil.rmtree(comfy.home / "custom_nodes" / "broken")


def test_a_second_installation_is_identical_and_each_change_is_found(
    tmp_path, comfy, wheels, packs, host
) -> None:
    """Lock, install elsewhere, lock: the same; then six things are changed, one by one."""
    host.bytes_per_s = 0
    text = manifest(packs, host)
    text["models"]["after_start"].pop()
    path = tmp_path / "m.json"
    path.write_text(json.dumps(text))
    second = comfy_in(tmp_path / "second")
    locks = []
    for number, one in enumerate((comfy, second)):
        env, lock = environment(one, wheels), tmp_path / f"{number}.lock"
        _run("apply", path, tmp_path, env)
        _run("lock", path, "--lock", lock, tmp_path, env)
        locks.append(lock.read_text())
    assert locks[0] == locks[1]

    env, lock = environment(second, wheels), tmp_path / "1.lock"

    def differences() -> str:
        said = comfyfn("manifest", "verify", path, "--lock", lock, home=tmp_path, **env)
        assert said.returncode in (0, 1), said.stderr
        assert (said.returncode == 0) == (said.stdout == "as locked\n")
        return said.stdout

    assert differences() == "as locked\n"
    nodes, models = second.home / "custom_nodes", second.home / "models"
    commit = git(nodes / "on-branch", "rev-parse", "HEAD")
    git(nodes / "on-branch", "commit", "--quiet", "--allow-empty", "--message", "x")
    assert "node pack on-branch is " in differences()
    git(nodes / "on-branch", "reset", "--quiet", "--hard", commit)

    with changed(nodes / "with-script" / "__init__.py", b"# more\n"):
        assert "node pack with-script is changed by hand (__init__.py)" in differences()

    uv = [str(find_uv()), "pip", "install", "--quiet", "--python", str(second.python)]
    for version, seen in (("2.0", "package comfyfn-leaf is 2.0, not 1.0"), ("1.0", "as locked")):
        more = ["--no-index", "--find-links", str(wheels), f"comfyfn-leaf=={version}"]
        subprocess.run([*uv, *more], check=True, timeout=60)
        assert seen in differences()

    with changed(models / "vae" / "w.bin", b"x" + WEIGHTS[1:], whole=True):
        assert f"model models/vae/w.bin is {len(WEIGHTS)} bytes, sha256 " in differences()
    (models / "loras" / "l.bin").rename(tmp_path / "l.bin")
    assert "model models/loras/l.bin is missing" in differences()
    shutil.move(tmp_path / "l.bin", models / "loras" / "l.bin")

    with changed(second.home / "comfyui_version.py", b'__version__ = "0.0.1"\n', whole=True):
        assert "comfyui ComfyUI is 0.0.1" in differences()
    assert differences() == "as locked\n"


class changed:  # noqa: N801 - a block's keyword
    """Change a file for the time of a block."""

    def __init__(self, path: Path, data: bytes, *, whole: bool = False) -> None:
        self._path, self._before = path, path.read_bytes()
        self._after = data if whole else self._before + data

    def __enter__(self) -> None:
        self._path.write_bytes(self._after)

    def __exit__(self, *_: object) -> None:
        self._path.write_bytes(self._before)


def _run(verb: str, path: Path, *more: Any) -> None:
    *options, home, env = more
    said = comfyfn("manifest", verb, path, *options, home=home, **env)
    assert said.returncode == 0, said.stderr
