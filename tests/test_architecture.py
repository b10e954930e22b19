"""The rules of ARCHITECTURE.md as tests."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from live import REPO

from handler.settings import Settings, settings_table

PACKAGES = ("handler", "adapters", "local_server")
MODULES = sorted(p for name in PACKAGES for p in (REPO / name).rglob("*.py"))
TESTS = sorted((REPO / "tests").rglob("*.py"))
RECORDINGS = sorted((REPO / "tests" / "recordings").rglob("*.json"))
ROUTES = ("/prompt", "/history", "/object_info", "/ws", "/queue", "/system_stats", "/upload/image")
STARTS_PROCESSES = (
    "adapters/salad_worker.py",
    "handler/engine/preflight.py",
    "handler/engine/process.py",
    "handler/manifest/commands.py",
)
PROBES = ("probe_folders", "probe_gpu")
# Long texts of ComfyUI's declarations are not ours to spread.
PROSE = ("tooltip", "description")


def named(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), named(path))


def imports(path: Path) -> set[str]:
    """Name what a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def texts(path: Path) -> set[str]:
    """Give every text constant of a module that is no docstring."""
    body = tree(path)
    docs = {
        id(node.value)
        for node in ast.walk(body)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return {
        node.value
        for node in ast.walk(body)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    }


def breaking(rule, paths=MODULES) -> list[str]:
    return [named(path) for path in paths if rule(path)]


def test_import_contracts_hold():
    """Layers, pure modules, who may speak what: pyproject.toml has them."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    said = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout


def test_only_the_settings_read_the_environment():
    """Everything else gets what it needs as an argument."""
    reads = re.compile(r"\bos\.(environ|getenv|environb)\b|from os import .*(environ|getenv)")

    # What runs inside ComfyUI has the environment and nothing else.
    ours = [path for path in MODULES if "snapshot_node" not in path.parts]
    # The knobs of `modal deploy` are the deploying shell's, not a worker's settings.
    allowed = ["adapters/modal_knobs.py", "handler/settings.py"]
    assert breaking(lambda path: reads.search(path.read_text()), ours) == allowed


def test_only_the_engine_and_the_manifests_commands_start_processes():
    """Whatever starts must also be ended, in one place."""
    starters = {"subprocess", "multiprocessing", "pty"}
    calls = re.compile(r"\bos\.(system|popen|fork|spawn\w*|exec[lv]\w*|posix_spawn\w*)\(")
    calls_async = re.compile(r"create_subprocess_(exec|shell)")

    def starts(path: Path) -> bool:
        text = path.read_text()
        return bool(imports(path) & starters or calls.search(text) or calls_async.search(text))

    assert breaking(starts) == list(STARTS_PROCESSES)


def test_only_the_engine_knows_comfyuis_routes():
    """Within the core; the embedded engine serves them."""
    core = [path for path in MODULES if named(path).startswith("handler/")]

    def speaks(path: Path) -> bool:
        return any(text.startswith(ROUTES) for text in texts(path))

    found = breaking(speaks, core)
    assert found
    assert [name for name in found if not name.startswith("handler/engine/")] == []


def test_nothing_is_printed_outside_of_the_command_line():
    """Libraries log. The probes print: that is their answer."""
    allowed = {f"handler/engine/{name}.py" for name in PROBES}

    def prints(path: Path) -> bool:
        return any(
            isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            for node in ast.walk(tree(path))
        )

    printing = {name for name in breaking(prints) if not name.startswith("local_server/cli/")}
    assert printing == allowed


@pytest.mark.parametrize("name", PROBES)
def test_the_probes_need_the_standard_library_only(name):
    """ComfyUI's interpreter runs them, without us."""
    probe = REPO / "handler" / "engine" / f"{name}.py"
    roots = {name.split(".")[0] for name in imports(probe)}

    assert roots <= sys.stdlib_module_names


def test_what_launches_the_engine_is_light():
    """On a cold start it runs before everything else is loaded."""
    heavy = ("aiohttp", "httpx", "orjson", "pydantic", "starlette", "uvicorn", "numpy", "PIL")
    program = f"import sys, adapters.serving; print([m for m in {heavy!r} if m in sys.modules])"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert said.stdout == "[]\n"


def test_libraries_of_providers_load_on_first_use():
    """Whoever fetches over http(s) alone has none of them, and need not have."""
    modules = [
        named(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in MODULES
        if path.parent.name in ("transfer", "manifest", "cli", "delivery", "state")
        and path.stem != "__main__"
    ]
    heavy = ("boto3", "botocore", "huggingface_hub", "azure", "google.auth", "requests")
    program = f"import sys, {', '.join(modules)}; print([m for m in {heavy!r} if m in sys.modules])"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert said.stdout == "[]\n"


def test_every_module_has_its_own_tests():
    """handler/x/y.py -> tests/handler/x/test_y.py; empty packages have none."""
    missing = []
    for path in MODULES:
        if not path.read_text().strip():
            continue
        mirror = REPO / "tests" / path.relative_to(REPO).parent / f"test_{path.stem.strip('_')}.py"
        if not mirror.is_file():
            missing.append(named(path))
    assert missing == []


def test_every_setting_is_documented():
    """docs/settings.md holds the table as handler/settings.py gives it."""
    page = (REPO / "docs" / "settings.md").read_text()

    assert settings_table() in page


def test_every_setting_does_something():
    """A variable that nothing reads would be a promise."""
    ours = "\n".join(p.read_text() for p in MODULES if named(p) != "handler/settings.py")
    by_boot_limit = {"boot_timeout_s", "startup_check_interval_s", "startup_check_tries"}

    idle = {f.name for f in fields(Settings) if not re.search(rf"\.{f.name}\b", ours)}
    assert idle - by_boot_limit - {"state_dir"} == set()
    assert ".boot_limit_s" in ours
    assert ".state_folder" in ours


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recordings_hold_facts_and_no_prose(path):
    """ComfyUI's words for people stay in ComfyUI."""

    def prose(value, where=""):
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in PROSE and isinstance(inner, str) and inner.strip():
                    yield f"{where}.{key}"
                yield from prose(inner, f"{where}.{key}")
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                yield from prose(inner, f"{where}[{index}]")

    assert list(prose(json.loads(path.read_text()))) == []


def test_no_test_needs_a_path_outside_of_the_checkout():
    """A clone and the packages are enough."""
    # Written in parts, so that this file is no finding.
    outside = re.compile("|".join(("/wor" + "k/", "/opt/Comfy" + "UI", "/opt/comfy" + "-venv")))

    assert breaking(lambda path: outside.search(path.read_text()), TESTS) == []


@pytest.mark.parametrize("path", [p for p in TESTS if p.name.startswith("test_")], ids=named)
def test_every_test_says_what_it_shows(path):
    """A sentence each: the failing list reads as what is broken."""
    silent = [
        node.name
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []
