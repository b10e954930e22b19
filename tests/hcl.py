"""As much of HCL as a bake file needs: blocks, values, `${}` and `replace()`."""

from __future__ import annotations

import itertools
import re
from typing import Any

_TOKEN = re.compile(
    r'\s+|//[^\n]*|#[^\n]*|(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>[\w.-]+)|(?P<mark>.)'
)
Reader = Any


class Word(str):
    """A name that stands for a value."""

    __slots__ = ()


def parse(text: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Give the blocks: kind -> name -> attributes, not evaluated."""
    tokens = [m for m in _TOKEN.finditer(text) if m.lastgroup]
    stream = iter([(m.lastgroup, m.group()) for m in tokens])
    blocks: dict[str, dict[str, dict[str, Any]]] = {}
    for _, kind in stream:
        name = next(stream)[1].strip('"')
        assert next(stream)[1] == "{", f"{kind} {name} has no body"
        blocks.setdefault(kind, {})[name] = _body(stream)
    return blocks


def _body(stream: Reader) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for _, text in stream:
        if text == "}":
            return made
        if text != ",":
            assert next(stream)[1] == "=", f"{text} has no value"
            made[text] = _value(*next(stream), stream)
    raise AssertionError("a body has no end")


def _value(group: str, text: str, stream: Reader) -> Any:
    if text == "{":
        return _body(stream)
    if text == "[":
        return _items(stream, "]")
    if group == "text":
        return text[1:-1]
    if text == "replace":
        assert next(stream)[1] == "("
        return ("replace", *_items(stream, ")"))
    return Word(text)


def _items(stream: Reader, end: str) -> list[Any]:
    made = []
    for group, text in stream:
        if text == end:
            return made
        if text != ",":
            made.append(_value(group, text, stream))
    raise AssertionError("a list has no end")


def evaluate(value: Any, known: dict[str, Any]) -> Any:
    """Fill in what names stand for."""
    if isinstance(value, tuple):
        text, old, new = (evaluate(part, known) for part in value[1:])
        return text.replace(old, new)
    if isinstance(value, Word):
        return _look_up(value, known)
    if isinstance(value, str):
        return re.sub(r"\$\{([\w.]+)\}", lambda found: str(_look_up(found[1], known)), value)
    if isinstance(value, list):
        return [evaluate(one, known) for one in value]
    return {name: evaluate(one, known) for name, one in value.items()}


def _look_up(path: str, known: dict[str, Any]) -> Any:
    value: Any = known
    for name in path.split("."):
        value = value[name]
    return value


def targets(text: str, **variables: str) -> dict[str, dict[str, Any]]:
    """Give every target that is built where none is named, its matrix laid out."""
    blocks = parse(text)
    known = {name: body["default"] for name, body in blocks["variable"].items()} | variables
    made: dict[str, dict[str, Any]] = {}
    for group in blocks["group"]["default"]["targets"]:
        body = blocks["target"][group]
        matrix = evaluate(body["matrix"], known)
        for row in itertools.product(*matrix.values()):
            here = {**known, **dict(zip(matrix, row, strict=True))}
            own = evaluate({k: v for k, v in body.items() if k != "matrix"}, here)
            for name in own.pop("inherits", []):
                parent = evaluate(blocks["target"][name], here)
                own = {**parent, **own, "args": {**parent["args"], **own["args"]}}
            made[own["name"]] = own
    return made
