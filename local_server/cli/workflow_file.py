"""A workflow file as the shell gives it: read, changed by `-i`, with the media it needs."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path, PurePath
from typing import Any

MEDIA = ("image/", "video/", "audio/", "model/")
# Gigabytes that lie where ComfyUI looks for them: named, never sent.
WEIGHTS = {".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".onnx"}


def read_graph(path: Path, changes: list[str], stored: Path | None = None) -> dict[str, Any]:
    """Read a graph, set inputs, and take media that lie beside it along.

    Args:
        changes: `NODE.INPUT=VALUE`, NODE being an id, a title, or the class of one node.
        stored: the engine's input folder, None where it is out of reach. With it, a media file
            that a change names has to be here or there.

    Raises:
        InvalidWorkflow: the file is no graph, or a change names no input or no file.
    """
    from handler.errors import InvalidWorkflow
    from handler.graph.ui_format import describe_bad_graph, is_ui_format

    graph = _load(path)
    if isinstance(graph, dict) and isinstance(graph.get("prompt"), dict):
        graph = graph["prompt"]
    if not isinstance(graph, dict):
        raise InvalidWorkflow(f"{path} holds no graph")
    if is_ui_format(graph):
        raise InvalidWorkflow(f"{path}: {describe_bad_graph(graph)}")
    for change in changes:
        _change(graph, change, stored)
    for node in graph.values():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if not isinstance(inputs, dict):
            continue
        for name, value in inputs.items():
            if name != "filename_prefix" and _is_beside(path.parent, value):
                inputs[name] = as_data_uri(path.parent / value)
    return graph


def _load(path: Path) -> Any:
    import orjson

    from handler.errors import InvalidWorkflow

    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidWorkflow(f"no such workflow file: {path}") from error
    except OSError as error:
        raise InvalidWorkflow(f"{path} cannot be read: {error.strerror}") from error
    try:
        content.decode()
    except UnicodeDecodeError as error:
        hint = "give the JSON file of Workflow > Export (API)"
        raise InvalidWorkflow(f"{path} is not a workflow (binary file)", hint=hint) from error
    try:
        return orjson.loads(content)
    except ValueError as error:
        raise InvalidWorkflow(f"{path} is no JSON: {error}") from error


def _is_beside(folder: Path, value: Any) -> bool:
    """Whether an input names a picture, a film, a sound or a 3D model in the workflow's folder."""
    if not _names_media(value):
        return False
    name = PurePath(value)
    return not name.is_absolute() and ".." not in name.parts and _is_file(folder / name)


def _names_media(value: Any) -> bool:
    from handler.media.mimes import mime_of

    return isinstance(value, str) and mime_of(value).startswith(MEDIA)


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError):  # a text may be longer than any name
        return path.is_file()
    return False


def _change(graph: dict[str, Any], change: str, stored: Path | None) -> None:
    from handler.errors import InvalidWorkflow

    where, mark, text = change.partition("=")
    name, dot, key = where.rpartition(".")
    if not (mark and dot and name and key):
        raise InvalidWorkflow(f"-i {change}: write it as NODE.INPUT=VALUE")
    there = {i: n for i, n in graph.items() if isinstance(n, dict)}
    nodes = [i for i, n in there.items() if name in (i, _title(n))]
    nodes = nodes or [i for i, n in there.items() if n.get("class_type") == name]
    if len(nodes) != 1:
        known = ", ".join(f"{i} ({_called(n)})" for i, n in there.items())
        problem = "is no node" if not nodes else "names several nodes"
        raise InvalidWorkflow(f"-i {change}: {name!r} {problem}; there are {known}")
    node = graph[nodes[0]]
    inputs = node.get("inputs", {})
    if not isinstance(inputs, dict):
        raise InvalidWorkflow(f"-i {change}: the inputs of node {nodes[0]} are no object")
    if key not in inputs:
        # A new input would be dropped by the engine without a word, and the picture be another.
        raise InvalidWorkflow(f"-i {change}: {_no_input(node, key, list(inputs))}")
    if _is_lost(text, inputs[key], stored):
        raise InvalidWorkflow(
            f"-i {change}: no file {text} here, nor in the input folder {stored}",
            hint="give the path of a file, a URL, or the name of a stored file; INPUT_DIR moves it",
        )
    inputs[key] = given_value(text)


def _no_input(node: dict[str, Any], key: str, there: list[str]) -> str:
    from handler.graph.nearest import nearest

    near = nearest(key, there)
    known = f"did you mean {near[0]}?" if near else f"it has {', '.join(there) or 'none'}"
    return f"{node.get('class_type')} has no input {key!r} in this file; {known}"


def _is_lost(text: str, present: Any, stored: Path | None) -> bool:
    """Whether a change names a media file that is in neither place, for an input that takes one."""
    if stored is None or "://" in text or text.startswith("data:"):
        return False
    if not (_names_media(text) and _names_media(present)):
        return False
    return not _is_file(Path(text)) and not _is_file(stored / text)


def given_value(text: str) -> Any:
    """Read a value as the shell gives it: a file, JSON, or a text."""
    import orjson

    if Path(text).suffix.lower() not in WEIGHTS and _is_file(Path(text)):
        return as_data_uri(Path(text))
    try:
        return orjson.loads(text)
    except ValueError:
        return text


def _title(node: Any) -> str | None:
    meta = node.get("_meta") if isinstance(node, dict) else None
    return meta.get("title") if isinstance(meta, dict) else None


def _called(node: dict[str, Any]) -> str:
    return _title(node) or str(node.get("class_type") or "no class")


def as_data_uri(path: Path) -> str:
    """Give a file as a data URI."""
    import mimetypes

    mime = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"
