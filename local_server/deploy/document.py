"""A deploy.yaml's text in, `Deploy` out; every fault is told at once, with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from handler.graph.nearest import nearest
from handler.manifest.document import Entry, Unreadable, parse_document
from handler.manifest.faults import Fault
from local_server.deploy.faults import DocumentInvalid
from local_server.deploy.schema import Deploy

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 1 << 20


def read_deploy(path: Path) -> Deploy:
    """Read a deploy.yaml.

    Raises:
        DocumentInvalid: with every fault.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DocumentInvalid(str(path), [Fault(0, "", "is too large")])
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise DocumentInvalid(str(path), [Fault(0, "", problem)]) from error
    return parse_deploy(text, str(path), is_json=path.suffix.lower() == ".json")


def parse_deploy(text: str, source: str = "deploy.yaml", *, is_json: bool = False) -> Deploy:
    """Read a deploy.yaml's text.

    Raises:
        DocumentInvalid: with every fault.
    """
    try:
        tree = parse_document(text, is_json=is_json)
    except Unreadable as error:
        raise DocumentInvalid(source, error.faults) from error
    if not isinstance(tree.value, dict):
        raise DocumentInvalid(source, [Fault(tree.line, "", "must be a mapping with `name`")])
    try:
        return Deploy.model_validate(_plain(tree))
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        faults = [_fault(tree, problem) for problem in found]
        raise DocumentInvalid(source, faults) from None  # its text would repeat the values


def _plain(entry: Entry, *, texts: bool = False) -> Any:
    """Give the values of a tree; those of variables as they are written: `1.10` stays so."""
    if isinstance(entry.value, dict):
        return {
            key: _plain(inner, texts=texts or key in ("env", "knobs"))
            for key, inner in entry.value.items()
            if inner.value is not None or texts or key in ("gateway", "queue")
        }
    if isinstance(entry.value, list):
        return [_plain(inner, texts=texts) for inner in entry.value]
    return entry.text if texts and entry.value is not None else entry.value


def _fault(tree: Entry, problem: Any) -> Fault:
    entry, path = tree, ""
    for step in problem["loc"]:
        inner = entry.value if isinstance(entry.value, dict | list) else {}
        known = step in inner if isinstance(inner, dict) else isinstance(step, int)
        if known and not (isinstance(step, int) and step >= len(inner)):
            entry = inner[step]
        elif problem["type"] != "missing":
            continue  # a part of pydantic's own, as the arm of a union
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    return Fault(entry.line, path, _worded(problem))


def _worded(problem: Any) -> str:
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] == "extra_forbidden":
        keys = _keys(Deploy, problem["loc"][:-1])
        near = nearest(str(problem["loc"][-1]), keys, limit=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(keys)}"
        return f"is no key here; {hint}"
    if problem["type"] == "string_pattern_mismatch" and problem["loc"][-1:] == ("name",):
        return "must be lower-case letters, digits and hyphens, 2 to 63, beginning with a letter"
    message: str = problem["msg"]
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def _keys(model: type[BaseModel], steps: tuple[Any, ...]) -> list[str]:
    for step in steps:
        known = model.model_fields.get(str(step))
        arms = (known.annotation, *get_args(known.annotation)) if known is not None else ()
        below = [arm for arm in arms if isinstance(arm, type) and issubclass(arm, BaseModel)]
        model = below[0] if below else model
    return list(model.model_fields)
