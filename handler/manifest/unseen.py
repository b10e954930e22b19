"""Packages that an interpreter imports from folders which uv does not look into.

uv knows the interpreter's own folder alone, and would install beside a torch that lies elsewhere a
second one, which breaks what was built against the first.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from handler.manifest.faults import InstallFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from handler.manifest.requirements import Installed

_ADDED = re.compile(
    r"^ \+ (?P<name>[A-Za-z0-9._-]+)(==(?P<version>\S+))?(?P<address> .*)?$", re.MULTILINE
)


def unseen(installed: Installed, listed: str) -> frozenset[str]:
    """Name the packages that uv does not know of. Pure.

    Args:
        listed: what `uv pip list --format json` printed.

    Raises:
        InstallFailed: it is no such list.
    """
    try:
        seen = {canonicalize_name(package["name"]) for package in json.loads(listed)}
    except (ValueError, KeyError, TypeError) as error:
        raise InstallFailed("uv gave no list of the packages it sees") from error
    return frozenset(installed.versions.keys() - seen)


def lay_out(installed: Installed, folder: Path) -> None:
    """Make a folder that shows uv all packages as if they were installed there.

    It holds their metadata alone. An older one is replaced.

    Raises:
        OSError: it cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, version in installed.versions.items():
        with contextlib.suppress(InvalidVersion):  # no resolver could use that one
            Version(version)
            info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(_metadata(installed, name, version), encoding="utf-8")
            if name in installed.direct_urls:
                text = json.dumps(installed.direct_urls[name])
                (info / "direct_url.json").write_text(text, encoding="utf-8")


def _metadata(installed: Installed, name: str, version: str) -> str:
    path = Path(installed.places.get(name, ""))
    for file in (path / "METADATA", path / "PKG-INFO", path):  # of wheels, and of eggs
        with contextlib.suppress(OSError):
            return file.read_text(encoding="utf-8", errors="replace")
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"


def planned(output: str) -> dict[str, str | None]:
    """Read what a dry run would install. Pure.

    Returns:
        name -> version; None for what comes from an address.
    """
    return {
        str(canonicalize_name(found["name"])): None if found["address"] else found["version"]
        for found in _ADDED.finditer(output)
    }


def never(names: Iterable[str]) -> str:
    """Write overrides by which nothing asks for these packages any more. Pure."""
    return "".join(f"{name} ; python_version < '0'\n" for name in sorted(names))
