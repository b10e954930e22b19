"""Python packages for ComfyUI's interpreter: one run of uv's resolver for everybody.

What the image was built around (torch and its kin, numpy) stays exactly as it is: a requirement
that would replace it is refused, and the pack that has it is named. When everything is there
already, the answer comes from the names of folders, and uv is not started.

uv looks into the interpreter's own folder alone. Where more can be imported (a venv that sees the
system's packages, a `.pth`), uv first resolves against a picture of all of it, and is then told to
leave out what that picture has.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from handler.manifest import commands
from handler.manifest.conflicts import (
    PROTECTED,
    askers,
    conflict_of,
    direct_conflicts,
    sort_out,
)
from handler.manifest.faults import InstallFailed
from handler.manifest.requirements import Installed, Wanted, read_probe, satisfied
from handler.manifest.unseen import lay_out, never, planned, unseen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from handler.manifest.conflicts import Conflict

log = logging.getLogger("comfyfn.manifest")

PROBE = Path(__file__).with_name("probe_packages.py")
_PROBE_TIMEOUT_S = 60.0
_NETWORK = re.compile(r"Failed to fetch|error sending request|dns error|operation timed out")
_UNBUILT = re.compile(r"Failed to (?:build|download(?: and build)?) `(?P<name>[A-Za-z0-9._-]+)")
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
        self._picture = scratch / "picture"
        self._options = options
        self._uv = uv
        self._unseen: frozenset[str] = frozenset()

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
        remaining, dropped = sort_out(wanted, direct_conflicts(wanted, kept, installed))
        if all(satisfied(line, installed) for party in remaining for line in party.lines):
            return Outcome(ran=False, seconds=time.monotonic() - begun, dropped=dropped)
        await self._look_for_unseen(installed)
        remaining = await self._install(remaining, dropped)
        await self.check_kept(kept)
        return Outcome(ran=True, seconds=time.monotonic() - begun, dropped=dropped)

    async def script_environment(self, installed: Installed) -> dict[str, str]:
        """Give what holds the packages that a script installs by itself to the constraints.

        Raises:
            InstallFailed: uv cannot be run.
        """
        env = {"PIP_CONSTRAINT": str(self.constraints), "UV_CONSTRAINT": str(self.constraints)}
        await self._look_for_unseen(installed)
        if self._unseen:
            kept = self._scratch / "kept.txt"
            kept.write_text(never(self._unseen & set(PROTECTED)))
            env["UV_OVERRIDE"] = str(kept)
        return env

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
            wanted, more = sort_out(wanted, conflicts)
            dropped |= more
        return wanted

    async def _blame(self, wanted: Sequence[Wanted], done: commands.Done) -> list[Conflict]:
        """Find out who cannot be satisfied: alone, or else together with those before."""
        said = "\n".join(done.tail)
        if _NETWORK.search(said):
            return []
        if unbuilt := _UNBUILT.search(said):
            return [conflict_of(party, done, wanted) for party in askers(unbuilt["name"], wanted)]
        if len(wanted) == 1:
            return [conflict_of(wanted[0], done, wanted)]
        found = []
        for party in wanted:
            alone = await self._run_uv([party], dry=True)
            if alone.returncode != 0:
                found.append(conflict_of(party, alone, wanted))
        if found:
            return found
        # Those that may not be left out come first: an optional one that contradicts gives way.
        order = sorted(wanted, key=lambda party: party.optional)
        for count in range(2, len(order) + 1):
            together = await self._run_uv(order[:count], dry=True)
            if together.returncode != 0:
                return [conflict_of(order[count - 1], together, order[:count])]
        return []

    async def _look_for_unseen(self, installed: Installed) -> None:
        listed = await commands.run(
            [self._uv or find_uv(), "pip", "list", "--python", self.python, "--format", "json"],
            what="uv pip list",
            env=self._env,
            cwd=self._scratch,
            timeout_s=_PROBE_TIMEOUT_S,
            shown=logging.DEBUG,
        )
        self._unseen = unseen(installed, listed.output)
        if self._unseen:
            await asyncio.to_thread(lay_out, installed, self._picture)
            log.info("%d packages come from other folders, and stay", len(self._unseen))

    async def _run_uv(self, wanted: Sequence[Wanted], *, dry: bool = False) -> commands.Done:
        options: list[str | Path] = []
        for number, party in enumerate(wanted):
            path = self._scratch / f"requirements-{number}.txt"
            path.write_text("".join(f"{line.text}\n" for line in party.lines))
            options += ["--requirement", path]
        if not self._unseen:
            return await self._uv_install([*options, *(["--dry-run"] if dry else [])], dry=dry)
        pictured = [*options, "--target", self._picture, "--dry-run"]
        plan = await self._uv_install(pictured, dry=True)
        if dry or plan.returncode != 0:
            return plan
        fresh = planned(plan.output)
        overrides, more = self._scratch / "overrides.txt", self._scratch / "planned.txt"
        overrides.write_text(never(self._unseen - fresh.keys()))
        # What only a package left out asked for (an extra of it) would not come otherwise.
        more.write_text("".join(f"{name}=={v}\n" for name, v in fresh.items() if v is not None))
        return await self._uv_install([*options, "--override", overrides, "--requirement", more])

    async def _uv_install(
        self, options: Sequence[str | Path], *, dry: bool = False
    ) -> commands.Done:
        command: list[str | Path] = [
            self._uv or find_uv(), "pip", "install", "--python", self.python,
            # The interpreter of an image is the image's own, whatever Debian thinks of it.
            "--break-system-packages",
            # As pip has it: the best of all indexes, not all versions of the first one.
            "--index-strategy", "unsafe-best-match",
            "--no-progress", "--color", "never", "--constraint", self.constraints,
        ]  # fmt: skip
        return await commands.run(
            [*command, *self._options, *options],
            what="uv pip install",
            env=self._env,
            cwd=self._scratch,
            check=False,
            both=True,
            shown=logging.DEBUG if dry else logging.INFO,
        )


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
