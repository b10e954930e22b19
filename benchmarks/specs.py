"""What the targets files say: which servers there are, and how each is started."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent


@dataclass(frozen=True, slots=True)
class Spec:
    """One table of a targets file; see targets.toml for the fields."""

    name: str
    shape: str
    url: str
    engine: str
    folder: Path
    ready: str = "/"
    cwd: str = "{scratch}"
    start: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    engine_port: int = 0
    engine_command: tuple[str, ...] = ()


def read_specs(*files: Path) -> dict[str, Spec]:
    """The targets of all files; a later one replaces an earlier one of its name."""
    specs = {}
    for path in files:
        for name, table in tomllib.loads(path.read_text()).items():
            lists = {k: tuple(v) for k, v in table.items() if isinstance(v, list)}
            specs[name] = Spec(name=name, folder=path.resolve().parent, **{**table, **lists})
    return specs
