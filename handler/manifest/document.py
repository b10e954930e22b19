"""YAML or JSON text as a tree that knows its lines."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import yaml

from handler.manifest.faults import Fault

_MOST_ENTRIES = 200_000
"""An alias inside an alias inside an alias is a short text and a tree without end."""

_DEEPEST = 40
_TAGS = {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and the line it stands on.

    Attributes:
        value: a scalar, a list of entries, or a dict of text -> entry.
        text: a scalar as it was written: `0.30` is a number to YAML, and no version any more.
    """

    value: Any
    line: int
    text: str = ""


class Unreadable(Exception):
    """The text is no YAML or JSON at all, or holds what no manifest can: `faults` has where."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def parse_document(text: str, *, is_json: bool) -> Entry:
    """Read a text.

    Raises:
        Unreadable: with everything that stood in the way.
    """
    if is_json:
        return _parse_json(text)
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            walk = _Walk(loader)
            tree = walk.entry(node, "", 0) if node is not None else Entry(None, 1)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or "cannot be read"
        raise Unreadable(
            [Fault(mark.line + 1 if mark else 0, "", f"no YAML: {problem}")]
        ) from error
    except yaml.YAMLError as error:
        raise Unreadable([Fault(0, "", f"no YAML: {error}")]) from error
    if walk.faults:
        raise Unreadable(walk.faults)
    return tree


class _Walk:
    """Turns YAML's nodes into entries."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self.faults: list[Fault] = []
        self._loader = loader
        self._entries = 0

    def entry(self, node: yaml.Node, path: str, depth: int, at: int | None = None) -> Entry:
        """Turn a node into an entry; `at` is the line of its key."""
        line = node.start_mark.line + 1 if at is None else at
        self._entries += 1
        if depth > _DEEPEST or self._entries > _MOST_ENTRIES:
            raise Unreadable([Fault(line, path, "too deep, or refers to itself")])
        if node.tag not in _TAGS:
            self.faults.append(
                Fault(line, path, f"has the tag {node.tag}, which means nothing here")
            )
            return Entry(None, line)
        if isinstance(node, yaml.MappingNode):
            return Entry(self._mapping(node, path, depth), line)
        if isinstance(node, yaml.SequenceNode):
            items = [self.entry(n, f"{path}[{at}]", depth + 1) for at, n in enumerate(node.value)]
            return Entry(items, line)
        try:
            value = self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            problem = getattr(error, "problem", None) or error
            self.faults.append(Fault(line, path, f"cannot be read: {problem}"))
            value = None
        return Entry(value, line, node.value)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Entry]:
        own = {id(key) for key, _ in node.value}
        self._loader.flatten_mapping(node)  # `<<: *defaults`
        found: dict[str, Entry] = {}
        said: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.faults.append(Fault(line, path, "a key must be a text"))
                continue
            name = key.value
            if name in said and id(key) in own:
                self.faults.append(
                    Fault(line, _join(path, name), f"is given twice, first on line {said[name]}")
                )
            if id(key) in own:
                said[name] = line
            found[name] = self.entry(value, _join(path, name), depth + 1, line)
        return found


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _parse_json(text: str) -> Entry:
    """Read JSON. It is close enough to YAML for YAML to tell the lines, not for the values."""
    try:
        values = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        raise Unreadable([Fault(error.lineno, "", f"no JSON: {error.msg}")]) from error
    except RecursionError as error:
        raise Unreadable([Fault(0, "", "no JSON: too deep")]) from error
    try:
        # A tab is fine between JSON's tokens and an error to YAML; inside a text JSON has none.
        node: yaml.Node | None = yaml.compose(text.replace("\t", " "), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        node = None  # only the lines are lost
    faults: list[Fault] = []
    tree = _beside(values, node, "", faults)
    if faults:
        raise Unreadable(faults)
    return tree


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written, with keys that are given twice."""


def _beside(value: Any, node: yaml.Node | None, path: str, faults: list[Fault]) -> Entry:
    line = node.start_mark.line + 1 if node is not None else 0
    if isinstance(value, _Pairs):
        nodes = node.value if isinstance(node, yaml.MappingNode) else [(None, None)] * len(value)
        found: dict[str, Entry] = {}
        for (name, inner), (key, below) in zip(value, nodes, strict=True):
            at = key.start_mark.line + 1 if key is not None else 0
            if name in found:
                faults.append(Fault(at, _join(path, name), "is given twice"))
            below_entry = _beside(inner, below, _join(path, name), faults)
            found[name] = replace(below_entry, line=at)
        return Entry(found, line)
    if isinstance(value, list):
        below = node.value if isinstance(node, yaml.SequenceNode) else [None] * len(value)
        items = [
            _beside(inner, part, f"{path}[{at}]", faults)
            for at, (inner, part) in enumerate(zip(value, below, strict=True))
        ]
        return Entry(items, line)
    text = value if isinstance(value, str) else json.dumps(value)
    return Entry(value, line, text)
