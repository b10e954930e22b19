"""Lines of requirements files: reading them, and whether an interpreter has what they ask for."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_INCLUDE = re.compile(r"(?:-r|--requirement)[\s=]*(?P<path>.+)")
_WITH_PATH = re.compile(
    r"(?P<option>-c|--constraint|-e|--editable|-f|--find-links)[\s=]+(?P<path>.+)"
)
_INDEX = re.compile(r"(?:-i|--index-url)[\s=]+(?P<url>.+)")
_DEEPEST = 10


@dataclass(frozen=True, slots=True)
class Line:
    """One requirement or option.

    Attributes:
        text: with paths made absolute, so that it means the same anywhere.
        place: where it was read, `requirements.txt:3`.
    """

    text: str
    place: str

    @property
    def requirement(self) -> Requirement | None:
        """The requirement by name; None for an option, a folder, or an address alone."""
        if self.text.startswith("-"):
            return None
        try:
            return Requirement(re.split(r"\s--", self.text, maxsplit=1)[0])
        except InvalidRequirement:
            return None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Everything that one party requires.

    Attributes:
        owner: a node pack's name, `ComfyUI`, or `pip` for the manifest's own list.
        optional: whether it may go without.
    """

    owner: str
    lines: tuple[Line, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Installed:
    """What an interpreter has.

    Attributes:
        versions: by canonical name.
        direct_urls: for what came from an address: the contents of `direct_url.json`.
        environment: variables of environment markers.
        places: where each package's metadata lies.
    """

    versions: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    direct_urls: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)


def read_probe(found: dict[str, Any]) -> Installed:
    """Read what probe_packages.py printed."""
    packages = found["packages"]
    return Installed(
        {canonicalize_name(p["name"]): str(p["version"]) for p in packages},
        found["environment"],
        {canonicalize_name(p["name"]): p["direct_url"] for p in packages if "direct_url" in p},
        {canonicalize_name(p["name"]): str(p["path"]) for p in packages},
    )


def load(path: Path, *, foreign: bool = True) -> tuple[Line, ...]:
    """Read a requirements file and those it includes.

    Args:
        foreign: it belongs to a pack. Its index is one among others then: the packs are
            resolved together.

    Raises:
        OSError: it cannot be read.
    """
    return tuple(_load(path, path.name, foreign, 0))


def parse(lines: Sequence[str], folder: Path, name: str) -> tuple[Line, ...]:
    """Read requirements given as texts; their paths are relative to `folder`."""
    text = "\n".join(lines)
    return tuple(_parse(text, folder, name, foreign=False, depth=0))


def _load(path: Path, name: str, foreign: bool, depth: int) -> Iterator[Line]:
    yield from _parse(_decoded(path.read_bytes()), path.parent, name, foreign, depth)


def _parse(text: str, folder: Path, name: str, foreign: bool, depth: int) -> Iterator[Line]:
    for number, line in _logical_lines(text):
        include = _INCLUDE.fullmatch(line)
        if include is not None and depth < _DEEPEST:
            below = folder / include["path"].strip()
            yield from _load(below, below.name, foreign, depth + 1)
        elif include is None:
            yield Line(_anywhere(line, folder, foreign), f"{name}:{number}")


def _decoded(raw: bytes) -> str:
    # Files made by a Windows shell's `pip freeze >` are UTF-16.
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if raw.startswith(mark):
            return raw.decode(encoding, errors="replace")
    return raw.decode(errors="replace")


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    held, begun = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        begun = begun if held else number
        if raw.rstrip().endswith("\\"):
            held += raw.rstrip()[:-1] + " "
            continue
        line = re.sub(r"(^|\s)#.*$", "", held + raw).strip()
        held = ""
        if line:
            yield begun, line


def _anywhere(line: str, folder: Path, foreign: bool) -> str:
    """Write a line so that it does not depend on the folder it is read in."""
    option = _WITH_PATH.fullmatch(line)
    if option is not None:
        path = option["path"].strip()
        if "://" not in path:
            path = str(folder / path)
        return f"{option['option']} {path}"
    index = _INDEX.fullmatch(line)
    if index is not None and foreign:
        return f"--extra-index-url {index['url'].strip()}"
    if line.startswith(("./", "../")) or line == ".":
        return str(folder / line)
    return line


def satisfied(line: Line, installed: Installed) -> bool:
    """Tell whether nothing has to be done for a line; False where only a resolver can tell."""
    if re.match(
        r"(-c|--constraint|-f|--find-links|--(extra-)?index-url|-i|--no-|--only-)", line.text
    ):
        return True  # asks for nothing by itself
    wanted = line.requirement
    if wanted is None:
        return False
    if not applies(wanted, installed):
        return True
    name = canonicalize_name(wanted.name)
    version = installed.versions.get(name)
    if version is None or wanted.extras:
        return False
    if wanted.url is not None:
        return installed.direct_urls.get(name, {}).get("url") == wanted.url
    return _within(wanted, version)


def applies(wanted: Requirement, installed: Installed) -> bool:
    """Tell whether a requirement's marker holds for the interpreter."""
    if wanted.marker is None:
        return True
    return wanted.marker.evaluate({**installed.environment, "extra": ""})


def clash(line: Line, kept: Mapping[str, str], installed: Installed) -> str | None:
    """Name the package that a line would replace, of those that must stay; None for none."""
    wanted = line.requirement
    if wanted is None or not applies(wanted, installed):
        return None
    name = canonicalize_name(wanted.name)
    version = kept.get(name)
    if version is None:
        return None
    if wanted.url is not None:
        same = installed.direct_urls.get(name, {}).get("url") == wanted.url
        return None if same else name
    return None if _within(wanted, version) else name


def _within(wanted: Requirement, version: str) -> bool:
    try:
        return wanted.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False
