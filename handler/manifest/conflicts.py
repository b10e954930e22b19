"""Whose requirements cannot be had, and why: told by the party, not by uv's reason alone. Pure."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from handler.manifest.commands import without_secrets
from handler.manifest.faults import InstallFailed
from handler.manifest.requirements import clash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from handler.manifest.commands import Done
    from handler.manifest.requirements import Installed, Wanted

log = logging.getLogger("comfyfn.manifest")

PROTECTED = ("torch", "torchvision", "torchaudio", "numpy")
_CONCLUSION = re.compile(
    r"(?:╰─▶|cause:) (?P<text>.*?)(?:\n\s*\n|\n\s*(?:hint|help):|\Z)", re.DOTALL
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Conflict:
    """A party whose requirements cannot be had.

    Attributes:
        packages: the names that the reason speaks of.
    """

    owner: str
    packages: tuple[str, ...]
    why: str


def direct_conflicts(
    wanted: Sequence[Wanted], kept: Mapping[str, str], installed: Installed
) -> list[Conflict]:
    """Find lines that ask for another version of what must stay. Pure."""
    return [
        Conflict(
            party.owner,
            (name,),
            f"{line.place} wants {without_secrets(line.text)!r}, "
            f"and {name} {kept[name]} has to stay",
        )
        for party in wanted
        for line in party.lines
        if (name := clash(line, kept, installed)) is not None
    ]


def sort_out(
    wanted: Sequence[Wanted], conflicts: Sequence[Conflict]
) -> tuple[list[Wanted], dict[str, str]]:
    """Leave those in conflict out.

    Raises:
        InstallFailed: one of them is not optional.
    """
    optional = {party.owner for party in wanted if party.optional}
    bad = [conflict for conflict in conflicts if conflict.owner not in optional]
    if bad:
        raise InstallFailed(
            "; ".join(f"{_titled(found.owner)}: {found.why}" for found in bad),
            hint="choose versions that go together, or mark the pack `optional: true`",
            details=[
                {"pack": found.owner, "packages": list(found.packages), "why": found.why}
                for found in bad
            ],
        )
    dropped = {found.owner: found.why for found in conflicts}
    for owner, why in dropped.items():
        log.warning("%s goes without its packages: %s", _titled(owner), why)
    return [party for party in wanted if party.owner not in dropped], dropped


def askers(name: str, wanted: Sequence[Wanted]) -> list[Wanted]:
    """Find those that name a package themselves."""
    asked = canonicalize_name(name)
    return [
        party
        for party in wanted
        if any(
            (found := line.requirement) is not None and canonicalize_name(found.name) == asked
            for line in party.lines
        )
    ]


def _titled(owner: str) -> str:
    return owner if owner in ("pip", "ComfyUI", "lock") else f"node pack {owner}"


def conflict_of(party: Wanted, done: Done, among: Sequence[Wanted]) -> Conflict:
    """Read uv's reason, and which of the packages at hand it speaks of."""
    said = "\n".join(done.tail)
    found = _CONCLUSION.search(said)
    why = " ".join((found["text"] if found else said).split())
    known = {
        canonicalize_name(requirement.name)
        for one in among
        for line in one.lines
        if (requirement := line.requirement) is not None
    } | set(PROTECTED)
    named = dict.fromkeys(canonicalize_name(word.rstrip(".-_")) for word in _NAME.findall(why))
    return Conflict(party.owner, tuple(name for name in named if name in known), why)
