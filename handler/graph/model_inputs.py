"""Which inputs of a graph take a file of a model folder: by what the engine lists, not by a table.

A class declares choices, and not where it read them. The folder is found by comparing them with
the lists of the model folders. Names decide only where lists cannot: folders that are empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from handler.graph.file_kinds import is_model_name
from handler.graph.links import as_link, inputs_of, node_title, unwrapped
from handler.graph.model_names import by_name, fits, folder_of_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from handler.graph.object_info import InputSpec, NodeSpec, ObjectInfo

__all__ = ["ModelInput", "Place", "folders_of", "is_model_url", "model_inputs", "wishing_classes"]

Place = tuple[str | int, ...]

PROBE_PREFIX = "comfyfn-probe-"
# One slash is enough: what was meant as a URL, maybe with a password, is no name for the engine.
_URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}:/", re.IGNORECASE)
_LONGEST_URL = 8192
_DEEPEST = 4


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One value that names a model file.

    Attributes:
        title: the node's.
        input: name of the input.
        value: URL, path, name in the catalogue, or a file name.
        folders: model folders that the input may list, the likeliest first.
        location: `prompt.<id>.inputs.<name>`.
        place: where in the input's value it stands, keys and indices; empty for the value itself.
        listed: the engine has a file of this name; nothing is to be fetched.
    """

    node_id: str
    class_type: str
    title: str
    input: str
    value: str
    folders: tuple[str, ...]
    location: str
    place: Place = ()
    listed: bool = False


def model_inputs(
    graph: Mapping[str, Any],
    info: ObjectInfo,
    listings: Mapping[str, Collection[str]],
    known: Collection[str] = (),
) -> list[ModelInput]:
    """Find every value that names a model and can be had: URLs, names of the catalogue, files.

    Names that are neither listed nor in the catalogue are left to `check_graph`. So are texts in
    plain text inputs, whatever they look like, and media.

    Args:
        listings: the files of each model folder.
        known: names of the catalogue.
    """
    found = []
    for node_id, spec, name, place, value in _texts(graph, info):
        declared = spec.inputs.get(name)
        wish = is_model_url(value) or value in known
        if declared is not None:
            listed = declared.has_choice(value)
            if not (listed or wish):
                continue
            folders = (
                _folders_with(value, listings) if listed else folders_of(spec, declared, listings)
            )
        else:
            folder = folder_of_key(str(place[-1])) or ""
            folders = (folder,) if folder in listings else ()
            listed = any(value in listings[folder] for folder in folders)
            if not (listed or wish):
                continue
        if folders:
            found.append(
                ModelInput(
                    node_id=node_id,
                    class_type=spec.class_type,
                    title=node_title(graph, node_id),
                    input=name,
                    value=value,
                    folders=folders,
                    location=f"prompt.{node_id}.inputs.{name}",
                    place=place,
                    listed=listed,
                )
            )
    return found


def wishing_classes(
    graph: Mapping[str, Any], info: ObjectInfo, known: Collection[str] = ()
) -> set[str]:
    """Give the classes of nodes that may ask for a model which is not there yet.

    Some may turn out not to take models: lists that are as new as the classes tell.
    """
    return {
        spec.class_type
        for _, spec, name, _, value in _texts(graph, info)
        if (is_model_url(value) or value in known)
        and not (name in spec.inputs and spec.inputs[name].has_choice(value))
    }


def is_probe(name: Any) -> bool:
    """Tell whether a file is one of ours that is there for a moment, to find an input's folder."""
    return isinstance(name, str) and name.startswith(PROBE_PREFIX)


def is_model_url(value: str) -> bool:
    """Tell whether a text is a URL of any scheme, or an absolute path."""
    if len(value) > _LONGEST_URL:
        return False
    return bool(_URL.match(value)) or (value.startswith("/") and len(value) > 1)


def _texts(
    graph: Mapping[str, Any], info: ObjectInfo
) -> Iterator[tuple[str, NodeSpec, str, Place, str]]:
    """Give each text where a model's name may stand: node, class, input, place and the text."""
    for node_id, node in graph.items():
        inputs = inputs_of(node)
        spec = info.node(node.get("class_type")) if inputs else None
        for name, wrapped in inputs.items() if spec else ():
            assert spec is not None
            value = unwrapped(wrapped)
            declared = spec.inputs.get(name)
            if declared is None:
                nested = _nested(value, (), 0) if isinstance(value, dict) else ()
                yield from ((node_id, spec, name, place, text) for place, text in nested)
            elif _takes_choices(declared):
                if isinstance(value, str) and value:
                    yield node_id, spec, name, (), value
                elif declared.multiselect and isinstance(value, list) and as_link(value) is None:
                    for index, one in enumerate(value):
                        if isinstance(one, str) and one:
                            yield node_id, spec, name, (index,), one


def _takes_choices(declared: InputSpec) -> bool:
    return declared.choices is not None and declared.upload is None and not declared.dynamic


def _nested(value: dict[str, Any], place: Place, depth: int) -> Iterator[tuple[Place, str]]:
    """Give the texts of an object under keys that models stand under."""
    for key, inner in value.items():
        if isinstance(inner, str) and inner and folder_of_key(key):
            yield (*place, key), inner
        elif isinstance(inner, dict) and depth < _DEEPEST:
            yield from _nested(inner, (*place, key), depth + 1)


def _folders_with(name: str, listings: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """Give the folders that have a file; any where the lists are older than the choices."""
    there = tuple(folder for folder, files in listings.items() if name in files)
    return there or (tuple(listings) if is_model_name(name) else ())


def folders_of(
    spec: NodeSpec, declared: InputSpec, listings: Mapping[str, Collection[str]]
) -> tuple[str, ...]:
    """Find the folders that an input lists, several where that cannot be told; none for others."""
    if not _takes_choices(declared):
        return ()
    choices = [choice for choice in declared.choices or () if not is_probe(choice)]
    texts = {choice for choice in choices if isinstance(choice, str)}
    shared = {name: texts.intersection(files) for name, files in listings.items() if files}
    files = {text for text in texts if is_model_name(text)}.union(*shared.values())
    if files:
        # All of a folder's files are choices, or all choices are some of its files.
        whole = [
            name
            for name, both in shared.items()
            if both and (len(both) == len(listings[name]) or both == files)
        ]
        # The largest overlap, where files came or went since the class was read.
        most = max(map(len, shared.values()), default=0)
        partly = [name for name, both in shared.items() if both and len(both) == most]
        candidates = whole or partly
    else:
        candidates = [name for name, there in listings.items() if not there]
        if choices:  # `None`; or `enable` and `disable`, nothing to do with files
            candidates = [n for n in candidates if fits(declared, n)]
    return by_name(spec.class_type, declared.name, candidates)
