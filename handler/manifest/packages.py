"""Python packages for ComfyUI's interpreter: one run of uv's resolver for everybody.

What the image was built around (torch and its kin, numpy) stays exactly as it is: a requirement
that would replace it is refused, and the pack that has it is named. When everything is there
already, the answer comes from the names of folders, and uv is not started.
"""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from handler.manifest import commands
from handler.manifest.faults import InstallFailed
from handler.manifest.requirements import Installed, Wanted, clash, read_probe, satisfied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger("comfyfn.manifest")

PROTECTED = ("torch", "torchvision", "torchaudio", "numpy")
PROBE = Path(__file__).with_name("probe_packages.py")
_PROBE_TIMEOUT_S = 60.0
_CONCLUSION = re.compile(r"╰─▶ (?P<text>.*?)(?:\n\s*\n|\n\s*(?:hint|help):|\Z)", re.DOTALL)
_NETWORK = re.compile(r"Failed to fetch|error sending request|dns error|operation timed out")
_UNBUILT = re.compile(r"Failed to (?:build|download(?: and build)?) `(?P<name>[A-Za-z0-9._-]+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PIP_TO_UV = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an installation came to.

    Attributes:
        ran: whether anything had to be installed.
        dropped: owner -> why, of those that were optional and could not be had.
    """

    ran: bool
    seconds: float
    dropped: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Conflict:
    """A party whose requirements cannot be had.

    Attributes:
        packages: the names that the reason speaks of.
    """

    owner: str
    packages: tuple[str, ...]
    why: str


class Packages:
    """An interpreter's packages.

    Args:
        python: ComfyUI's interpreter.
        env: what uv and the probe inherit.
        scratch: a folder of ours for the files handed to uv.
        options: further options for `uv pip install`.
        uv: the program; by default that of the package `uv`.
    """

    def __init__(
        self,
        python: Path,
        env: Mapping[str, str],
        scratch: Path,
        *,
        options: tuple[str, ...] = (),
        uv: Path | None = None,
    ) -> None:
        self.python = python
        self.constraints = scratch / "constraints.txt"
        self._env = uv_environment(env)
        self._scratch = scratch
        self._options = options
        self._uv = uv

    async def installed(self) -> Installed:
        """Ask the interpreter for its packages. Takes some 30 ms.

        Raises:
            InstallFailed: it cannot be run.
        """
        done = await commands.run(
            [self.python, PROBE],
            what=f"look at packages of {self.python}",
            env=self._env,
            timeout_s=_PROBE_TIMEOUT_S,
            shown=logging.DEBUG,
        )
        try:
            return read_probe(json.loads(done.output))
        except (ValueError, KeyError, TypeError) as error:
            raise InstallFailed(f"{self.python} gave no list of its packages") from error

    def write_constraints(
        self, installed: Installed, pins: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Write the file that holds the protected packages in place; give those it names.

        Args:
            pins: further exact versions, those of a lock.
        """
        kept = {name: installed.versions[name] for name in PROTECTED if name in installed.versions}
        fixed: dict[str, str] = {canonicalize_name(k): v for k, v in (pins or {}).items()} | kept
        text = "".join(f"{name}=={version}\n" for name, version in sorted(fixed.items()))
        self.constraints.write_text(text)
        return kept

    async def install(
        self, wanted: Sequence[Wanted], pins: Mapping[str, str] | None = None
    ) -> Outcome:
        """Install everything that is missing, in one go.

        Args:
            pins: exact versions of a lock.

        Raises:
            InstallFailed: the requirements contradict each other or what must stay (naming who
                and what), or a package cannot be had.
        """
        begun = time.monotonic()
        installed = await self.installed()
        kept = self.write_constraints(installed, pins)
        remaining, dropped = _sort_out(wanted, direct_conflicts(wanted, kept, installed))
        if all(satisfied(line, installed) for party in remaining for line in party.lines):
            return Outcome(ran=False, seconds=time.monotonic() - begun, dropped=dropped)
        remaining = await self._install(remaining, dropped)
        await self.check_kept(kept)
        return Outcome(ran=True, seconds=time.monotonic() - begun, dropped=dropped)

    async def check_kept(self, kept: Mapping[str, str], culprit: str = "the installation") -> None:
        """Make sure that the protected packages are as they were.

        Raises:
            InstallFailed: one was replaced, by `culprit`.
        """
        now = (await self.installed()).versions
        for name, version in kept.items():
            if now.get(name) != version:
                raise InstallFailed(
                    f"{culprit} replaced {name} {version} by {now.get(name) or 'nothing'}",
                    hint="the image is broken now: build it anew without that",
                    details={"pack": culprit, "packages": [name]},
                )

    async def _install(self, wanted: list[Wanted], dropped: dict[str, str]) -> list[Wanted]:
        """Run uv; go without the optional ones where that is what it takes."""
        while wanted:
            done = await self._run_uv(wanted)
            if done.returncode == 0:
                break
            conflicts = await self._blame(wanted, done)
            if not conflicts:
                raise commands.failure("uv pip install", done)
            wanted, more = _sort_out(wanted, conflicts)
            dropped |= more
        return wanted

    async def _blame(self, wanted: Sequence[Wanted], done: commands.Done) -> list[Conflict]:
        """Find out who cannot be satisfied: alone, or else together with those before."""
        said = "\n".join(done.tail)
        if _NETWORK.search(said):
            return []
        if unbuilt := _UNBUILT.search(said):
            return [_conflict(party, done, wanted) for party in _askers(unbuilt["name"], wanted)]
        if len(wanted) == 1:
            return [_conflict(wanted[0], done, wanted)]
        found = []
        for party in wanted:
            alone = await self._run_uv([party], dry=True)
            if alone.returncode != 0:
                found.append(_conflict(party, alone, wanted))
        if found:
            return found
        # Those that may not be left out come first: an optional one that contradicts gives way.
        order = sorted(wanted, key=lambda party: party.optional)
        for count in range(2, len(order) + 1):
            together = await self._run_uv(order[:count], dry=True)
            if together.returncode != 0:
                return [_conflict(order[count - 1], together, order[:count])]
        return []

    async def _run_uv(self, wanted: Sequence[Wanted], *, dry: bool = False) -> commands.Done:
        command: list[str | Path] = [
            self._uv or find_uv(), "pip", "install", "--python", self.python,
            # The interpreter of an image is the image's own, whatever Debian thinks of it.
            "--break-system-packages",
            # As pip has it: the best of all indexes, not all versions of the first one.
            "--index-strategy", "unsafe-best-match",
            "--no-progress", "--color", "never", "--constraint", self.constraints,
        ]  # fmt: skip
        for number, party in enumerate(wanted):
            path = self._scratch / f"requirements-{number}.txt"
            path.write_text("".join(f"{line.text}\n" for line in party.lines))
            command += ["--requirement", path]
        command += [*self._options, *(["--dry-run"] if dry else [])]
        return await commands.run(
            command,
            what="uv pip install",
            env=self._env,
            cwd=self._scratch,
            check=False,
            shown=logging.DEBUG if dry else logging.INFO,
        )


def direct_conflicts(
    wanted: Sequence[Wanted], kept: Mapping[str, str], installed: Installed
) -> list[Conflict]:
    """Find lines that ask for another version of what must stay. Pure."""
    return [
        Conflict(
            party.owner,
            (name,),
            f"{line.place} wants {commands.without_secrets(line.text)!r}, "
            f"and {name} {kept[name]} has to stay",
        )
        for party in wanted
        for line in party.lines
        if (name := clash(line, kept, installed)) is not None
    ]


def _sort_out(
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


def _askers(name: str, wanted: Sequence[Wanted]) -> list[Wanted]:
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


def _conflict(party: Wanted, done: commands.Done, among: Sequence[Wanted]) -> Conflict:
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


def uv_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Give uv's environment: what pip was told about indexes holds for uv as well."""
    made = {**env, "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    for pip, uv in _PIP_TO_UV.items():
        if made.get(pip):
            listed = ",".join(made[pip].split()) if uv == "UV_FIND_LINKS" else made[pip]
            made.setdefault(uv, listed)
    return made


def find_uv() -> Path:
    """Find the program in the package `uv`.

    Raises:
        InstallFailed: it is not installed.
    """
    try:
        from uv import find_uv_bin

        return Path(find_uv_bin())
    except (ImportError, FileNotFoundError) as error:
        raise InstallFailed(
            "uv is missing, and the manifest installs Python packages",
            hint="install the package `uv` beside comfyfn",
        ) from error
