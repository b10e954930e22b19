"""Which inputs of a graph hold media that have to be fetched and put where the engine reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from handler.graph.file_kinds import FileKind, kind_of_name
from handler.graph.links import as_link, inputs_of, node_title, unwrapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handler.graph.object_info import InputSpec, NodeSpec, ObjectInfo

# comfyui-api takes these by name; their classes declare a list of choices and no upload.
_LEGACY_LOADERS: tuple[tuple[str, str, FileKind], ...] = (
    ("LoadVideo", "video", "video"),
    ("LoadVideo", "file", "video"),
    ("VHS_Load", "video", "video"),
    ("VHS_Load", "file", "video"),
    ("VHS_Load", "audio", "audio"),
    ("LoadAudio", "audio", "audio"),
    ("", "image", "image"),
)


@dataclass(frozen=True, slots=True)
class MediaInput:
    """One input that holds media.

    Attributes:
        title: the node's.
        input: name of the input.
        wanted: what the node loads.
        value: URL, base64, path or bare name as the caller sent it; a list of them for a
            directory's files, in their order.
        is_directory: the node reads all files of a directory; a `value` that is a text then names
            one that is there.
        is_path: the input takes a path on the engine's machine, not a name in the input folder.
        location: `prompt.<id>.inputs.<name>`.
    """

    node_id: str
    class_type: str
    title: str
    input: str
    wanted: FileKind
    value: str | list[str]
    is_directory: bool
    location: str
    is_path: bool = False


def media_inputs(graph: Mapping[str, Any], info: ObjectInfo) -> list[MediaInput]:
    """Find all media inputs, in the graph's key order; links and empty texts are none.

    A text counts only where the node class declares a file, or the contract's loaders have one.
    Values of a plain text input, a prompt that happens to be a URL, are left alone.
    """
    found = []
    for node_id, node in graph.items():
        inputs = inputs_of(node)
        spec = info.node(node["class_type"]) if inputs and "class_type" in node else None
        for name, wrapped in inputs.items() if spec else ():
            declared = spec.inputs.get(name) if spec else None
            value = unwrapped(wrapped)
            if spec is None or declared is None or not _may_hold_media(value):
                continue
            kind, is_directory = _wanted(spec, declared, value)
            if kind is not None:
                found.append(
                    MediaInput(
                        node_id=node_id,
                        class_type=spec.class_type,
                        title=node_title(graph, node_id),
                        input=name,
                        wanted=kind,
                        value=value,
                        is_directory=is_directory,
                        location=f"prompt.{node_id}.inputs.{name}",
                        is_path=declared.type == "STRING",
                    )
                )
    return found


def _may_hold_media(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    return (
        isinstance(value, list)
        and bool(value)
        and as_link(value) is None
        and all(isinstance(item, str) and item for item in value)
    )


def _wanted(
    spec: NodeSpec, declared: InputSpec, value: str | list[str]
) -> tuple[FileKind | None, bool]:
    """Tell the kind of media, None for no media, and whether a directory is read."""
    if isinstance(value, list):
        directory = declared.is_directory or declared.name == "directory"
        return ("image", True) if directory else (None, False)
    if declared.upload is not None and not declared.guessed:
        return declared.upload, declared.is_directory
    # A listed name is there already; some packs list files that are not in the input folder.
    if declared.has_choice(value):
        return None, False
    return declared.upload or _legacy(spec, declared) or _by_value(declared, value), False


def _legacy(spec: NodeSpec, declared: InputSpec) -> FileKind | None:
    # Choices that are no files: `image: enable | disable`. And a text is any text, in most classes.
    if declared.choices or declared.type not in ("COMBO", "STRING"):
        return None
    for prefix, name, kind in _LEGACY_LOADERS:
        if declared.name == name and spec.class_type.startswith(prefix):
            return kind if prefix or declared.type == "COMBO" else None
    return None


def _by_value(declared: InputSpec, value: str) -> FileKind | None:
    """Tell by the value's extension, where an empty list of choices does not say what is listed."""
    return kind_of_name(value) if declared.type == "COMBO" and not declared.choices else None
