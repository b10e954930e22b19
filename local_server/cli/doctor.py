"""`comfyfn doctor`: what was found, what is missing, and why."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_server.cli.findings import Finding

if TYPE_CHECKING:
    import argparse

    from handler.settings import Settings

GIB = 1 << 30
LITTLE_SPACE_GIB = 2.0
MOST_STEPS = 4
MOST_PIXELS = 256 * 256


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("doctor", help="tell what was found, what is missing, and why")
    parser.add_argument("--quick", action="store_true", help="do not measure how fast disks read")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    parser.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Print the findings; the status is 1 when the server would not run here."""
    from handler.settings import Settings

    findings = examine(Settings.from_env(), quick=options.quick)
    status = 1 if any(finding.level == "bad" for finding in findings) else 0
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return status
    marks = {"ok": "ok  ", "warn": "warn", "bad": "BAD "}
    for finding in findings:
        print(f"{marks[finding.level]}  {finding.topic:13} {finding.text}")
    return status


def examine(settings: Settings, *, quick: bool = True) -> list[Finding]:
    """Look at everything that serving needs. Starts and changes nothing.

    Args:
        quick: without reading from the disks to see how fast they are.
    """
    from handler.engine.command import engine_kind
    from handler.errors import BootFailed
    from handler.version import VERSION
    from local_server.cli.doctor_models import model_findings
    from local_server.cli.doctor_needs import need_findings
    from local_server.cli.doctor_results import result_findings

    python = f"{sys.version.split()[0]} ({sys.executable})"
    findings = [Finding("ok", "comfyfn", f"{VERSION} on Python {python}")]
    try:
        kind = engine_kind(settings, embedded_allowed=True)
    except BootFailed as error:
        return [*findings, Finding("bad", "engine", f"{error.message}; {error.hint}")]
    describe = {"comfyui": _comfyui, "embedded": _embedded, "attached": _attached}
    findings += describe[kind](settings)
    if kind != "attached":
        findings.append(_port("port (engine)", settings.comfy_port, "COMFYUI_PORT_HOST"))
        findings += _folders(settings, kind)
        findings += model_findings(settings, quick=quick)
    findings.append(_port("port (server)", settings.port, "PORT"))
    findings += result_findings(settings)
    findings += need_findings(settings, kind)
    return [*findings, *_warmup(settings, has_models=kind != "embedded")]


def _comfyui(settings: Settings) -> list[Finding]:
    from handler.engine.command import interpreter, no_torch
    from handler.engine.preflight import preflight
    from handler.errors import BootFailed

    if settings.comfy_command:
        findings = [Finding("ok", "engine", f"ComfyUI by CMD: {' '.join(settings.comfy_command)}")]
        if settings.comfy_python is None and settings.comfy_home is None:
            return [*findings, Finding("warn", "gpu", "not checked: set COMFY_PYTHON to have it")]
    else:
        findings = [Finding("ok", "engine", f"ComfyUI in {settings.comfy_home}")]
    python = interpreter(settings)
    try:
        found = preflight(python)
    except BootFailed as error:
        return [*findings, Finding("bad", "interpreter", f"{error.message}; {error.hint}")]
    if found.torch is None:
        guessed = settings.comfy_command and settings.comfy_python is None
        text = f"{no_torch(settings)}; set COMFY_PYTHON to ComfyUI's Python"
        return [*findings, Finding("warn" if guessed else "bad", "interpreter", text)]
    findings.append(Finding("ok", "interpreter", f"{python}, torch {found.torch}"))
    if found.usable:
        return [*findings, Finding("ok", "gpu", f"{found.gpu}, {found.vram_mb} MiB")]
    if settings.allow_cpu:
        text = f"{found.reason}; ALLOW_CPU is set: ComfyUI runs on the CPU, slowly"
        return [*findings, Finding("warn", "gpu", text)]
    return [*findings, Finding("bad", "gpu", f"{found.reason}; ALLOW_CPU=true would go without")]


def _embedded(_settings: Settings) -> list[Finding]:
    text = "the embedded CPU engine (core image nodes only): set COMFY_HOME for a real ComfyUI"
    return [Finding("warn", "engine", text)]


def _attached(settings: Settings) -> list[Finding]:
    import httpx

    try:
        answer = httpx.get(f"{settings.comfy_url}/system_stats", timeout=5, trust_env=False)
        version = answer.raise_for_status().json()["system"].get("comfyui_version")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError) as error:
        text = f"no ComfyUI answers at COMFY_URL={settings.comfy_url}: {type(error).__name__}"
        return [Finding("bad", "engine", text)]
    return [Finding("ok", "engine", f"ComfyUI {version} at {settings.comfy_url}")]


def _port(topic: str, port: int, name: str) -> Finding:
    from handler.engine.process import check_port_free
    from handler.errors import BootFailed

    try:
        check_port_free(port)
    except BootFailed as error:
        return Finding("bad", topic, f"{error.message} ({name})")
    return Finding("ok", topic, f"{port} is free ({name})")


def _folders(settings: Settings, kind: Any) -> list[Finding]:
    from handler.engine.command import folders

    where = folders(settings, kind, Path())
    named = {"input": where.input, "output": where.output, "models": where.models}
    return [_folder(name, path) for name, path in named.items() if path is not None]


def _folder(name: str, path: Path) -> Finding:
    there = path
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / GIB
    text = f"{path}, {free:.1f} GiB free"
    if there != path:
        text += ", will be made"
    return Finding("warn" if free < LITTLE_SPACE_GIB else "ok", name, text)


def _warmup(settings: Settings, *, has_models: bool) -> list[Finding]:
    given = [
        name
        for name, value in (
            ("WARMUP_PROMPT_JSON", settings.warmup_json),
            ("WARMUP_PROMPT_FILE", settings.warmup_file),
            ("WARMUP_PROMPT_URL", settings.warmup_url),
        )
        if value
    ]
    if given:
        return [Finding("ok", "warmup", given[0]), *_heavy(settings)]
    if not has_models:
        return []
    return [Finding("warn", "warmup", "none: the first request loads the model")]


def _heavy(settings: Settings) -> list[Finding]:
    """Tell what of the warmup takes longer than loading the models needs."""
    text: str | bytes = settings.warmup_json
    try:
        if not text and settings.warmup_file is not None:
            text = settings.warmup_file.read_bytes()
        graph = json.loads(text) if text else {}
    except (OSError, ValueError, RecursionError) as error:
        return [Finding("bad", "warmup", f"it cannot be read: {error}")]
    nodes = graph.get("prompt", graph) if isinstance(graph, dict) else graph
    if not isinstance(nodes, dict):
        return [Finding("bad", "warmup", "it is no graph: a JSON object is needed")]
    return [
        Finding("warn", "warmup", f"node {node_id}: {what}; {MOST_STEPS} steps and 256x256 will do")
        for node_id, node in nodes.items()
        for what in _excesses(node)
    ]


def _excesses(node: Any) -> list[str]:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    given = inputs if isinstance(inputs, dict) else {}
    numbers = {key: value for key, value in given.items() if isinstance(value, int | float)}
    steps, width, height = (numbers.get(key, 0) for key in ("steps", "width", "height"))
    found = [f"{steps:g} steps"] if steps > MOST_STEPS else []
    return found + ([f"{width:g}x{height:g}"] if width * height > MOST_PIXELS else [])
