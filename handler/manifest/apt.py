"""Debian packages: only what is missing is installed, and asking costs milliseconds."""

from __future__ import annotations

import logging
import os
import re
import shutil
from typing import TYPE_CHECKING

from handler.manifest import commands
from handler.manifest.faults import InstallFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FORMAT = "${db:Status-Abbrev}\t${Package}\t${Architecture}\t${Version}\t${Provides}\n"
_LOCK_WAIT_S = 120
_ASK_TIMEOUT_S = 30.0
_WANTED = re.compile(r"(?P<name>[^:=/]+)(:(?P<arch>[^=/]+))?(=(?P<version>.+)|/.+)?")


class Apt:
    """The machine's package database.

    Args:
        env: what the commands inherit.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = {**env, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}

    async def versions(self) -> dict[str, str]:
        """Give the installed packages: name and `name:arch` -> version.

        A name that others provide has the version `provided`.

        Raises:
            InstallFailed: this is no Debian.
        """
        if shutil.which("dpkg-query", path=self._env.get("PATH")) is None:
            raise InstallFailed(
                "the manifest names Debian packages, and this machine has no dpkg",
                hint="take `apt` out of the manifest, or use an image based on Debian or Ubuntu",
            )
        done = await commands.run(
            ["dpkg-query", "--show", f"--showformat={_FORMAT}"],
            what="look at Debian packages",
            env=self._env,
            timeout_s=_ASK_TIMEOUT_S,
            shown=logging.DEBUG,
        )
        return read_versions(done.output)

    async def install(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Install what is missing; give the names of what was.

        Raises:
            InstallFailed: a package is unknown, apt-get failed, or we may not run it.
        """
        lacking = missing(wanted, await self.versions())
        if not lacking:
            return ()
        if os.geteuid() != 0:
            raise InstallFailed(
                f"Debian packages are missing ({', '.join(lacking)}), and only root installs them",
                hint="install them in the image, or run as root",
            )
        wait = ["-o", f"DPkg::Lock::Timeout={_LOCK_WAIT_S}"]
        await commands.run(["apt-get", *wait, "update"], what="apt-get update", env=self._env)
        keep = ["-o", "Dpkg::Options::=--force-confold"]
        await commands.run(
            ["apt-get", *wait, *keep, "install", "-y", "--", *lacking],
            what="apt-get install",
            env=self._env,
        )
        return lacking


def read_versions(output: str) -> dict[str, str]:
    """Read dpkg-query's table."""
    found: dict[str, str] = {}
    provided: list[str] = []
    for row in output.splitlines():
        status, name, arch, version, provides = (row.split("\t") + [""] * 5)[:5]
        if not status.startswith("ii"):
            continue
        found[name] = found[f"{name}:{arch}"] = version
        provided += (part.split()[0] for part in provides.split(",") if part.strip())
    for name in provided:
        found.setdefault(name, "provided")
    return found


def missing(wanted: Sequence[str], versions: Mapping[str, str]) -> tuple[str, ...]:
    """Tell which of the wanted packages are not there in the version asked for."""
    lacking = []
    for text in wanted:
        version = versions.get(package_name(text))
        asked = _WANTED.fullmatch(text)
        if version is None or (asked and asked["version"] and asked["version"] != version):
            lacking.append(text)
    return tuple(lacking)


def package_name(text: str) -> str:
    """Give the name, with its architecture where one is asked for, without the version."""
    found = _WANTED.fullmatch(text)
    assert found is not None
    return f"{found['name']}:{found['arch']}" if found["arch"] else found["name"]
