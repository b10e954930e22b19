"""What the engine tells of its node classes, `GET /object_info`, parsed one by one on demand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from handler.graph.file_kinds import (
    FileKind,
    declared_upload,
    kind_of_choices,
    kind_of_path,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_DYNAMIC_PREFIX = "COMFY_"


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One declared input of a node class; hidden inputs are not listed.

    Attributes:
        type: `IMAGE`, `INT`, `COMBO`, a union `INT,FLOAT`, `*`, or what a node pack made up.
        choices: of a COMBO; None where they are not known, empty where there are none.
        choice_set: the same for look-up; None where a choice cannot be hashed.
        minimum, maximum: inclusive, of numbers.
        upload: kind of file the input takes by its name in the input folder, None if no file.
        guessed: `upload` is concluded from the choices, not declared.
        is_path: a text that is a path on the engine's machine.
        is_directory: that path is a directory's.
        multiselect: several choices at once.
        dynamic: one that expands to others by rules that the declaration alone does not show.
    """

    name: str
    type: str
    required: bool
    choices: tuple[Any, ...] | None = None
    choice_set: frozenset[Any] | None = None
    minimum: float | None = None
    maximum: float | None = None
    default: Any = None
    multiline: bool = False
    upload: FileKind | None = None
    guessed: bool = False
    is_path: bool = False
    is_directory: bool = False
    multiselect: bool = False
    dynamic: bool = False

    def has_choice(self, value: Any) -> bool:
        """Tell whether the value is listed; False where no choices are known."""
        try:
            if self.choice_set is not None:
                return value in self.choice_set
        except TypeError:  # a list or an object is in no set
            return False
        return self.choices is not None and value in self.choices


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node class.

    Attributes:
        inputs: required ones first, each in declared order.
        outputs: types by slot, `COMBO` for a list of choices.
        output_node: the engine runs a graph for the sake of such nodes.
        python_module: `nodes`, `comfy_extras.x`, `custom_nodes.pack`; empty where not told.
    """

    class_type: str
    display_name: str
    inputs: dict[str, InputSpec]
    outputs: tuple[str, ...]
    output_node: bool
    python_module: str

    @property
    def custom(self) -> bool:
        """Whether the class is of a node pack, whose own validation may waive the engine's."""
        return self.python_module.startswith("custom_nodes")


class ObjectInfo:
    """The engine's node classes by name.

    Args:
        raw: the JSON of `GET /object_info`; not copied in depth, and not to be changed after.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = dict(raw)
        self._parsed: dict[str, NodeSpec] = {}

    def __repr__(self) -> str:
        return f"<ObjectInfo {len(self._raw)} classes, {len(self._parsed)} parsed>"

    @property
    def classes(self) -> tuple[str, ...]:
        """Give the names of all classes, in the engine's order."""
        return tuple(self._raw)

    @cached_property
    def display_names(self) -> dict[str, str]:
        """Give the class by its display name, as far as they differ."""
        shown: dict[str, str] = {}
        for class_type, entry in self._raw.items():
            name = entry.get("display_name") if isinstance(entry, dict) else None
            if isinstance(name, str) and name != class_type:
                shown.setdefault(name, class_type)
        return shown

    def node(self, class_type: Any) -> NodeSpec | None:
        """Give a class's declaration, None for what the engine does not have."""
        if not isinstance(class_type, str):
            return None
        spec = self._parsed.get(class_type)
        if spec is None:
            entry = self._raw.get(class_type)
            if not isinstance(entry, dict):
                return None
            spec = self._parsed[class_type] = _node_spec(class_type, entry)
        return spec

    def replace(self, class_type: str, raw_entry: Mapping[str, Any]) -> None:
        """Take over one class as the engine tells it now.

        Args:
            class_type: the class asked for.
            raw_entry: the answer of `GET /object_info/{class}`, `{class: entry}`, or the entry
                alone; empty for a class that is gone.
        """
        self._parsed.pop(class_type, None)
        self.__dict__.pop("display_names", None)
        entry = raw_entry.get(class_type, raw_entry)
        if isinstance(entry, dict) and entry:
            self._raw[class_type] = entry
        else:
            self._raw.pop(class_type, None)


def _node_spec(class_type: str, entry: dict[str, Any]) -> NodeSpec:
    declared = entry.get("input")
    inputs: dict[str, InputSpec] = {}
    for section, required in (("required", True), ("optional", False)):
        of_section = declared.get(section) if isinstance(declared, dict) else None
        for name, declaration in of_section.items() if isinstance(of_section, dict) else ():
            if name not in inputs:
                inputs[name] = _input_spec(name, declaration, required=required)
    outputs = entry.get("output")
    display_name, module = entry.get("display_name"), entry.get("python_module")
    return NodeSpec(
        class_type=class_type,
        display_name=display_name if isinstance(display_name, str) and display_name else class_type,
        inputs=inputs,
        outputs=tuple(_output_type(o) for o in outputs) if isinstance(outputs, list) else (),
        output_node=entry.get("output_node") is True,
        python_module=module if isinstance(module, str) else "",
    )


def _output_type(declared: Any) -> str:
    if isinstance(declared, str):
        return declared
    return "COMBO" if isinstance(declared, list) else "*"


def _input_spec(name: str, declaration: Any, *, required: bool) -> InputSpec:
    head, options = _head_and_options(declaration)
    type_ = head if isinstance(head, str) else "COMBO" if isinstance(head, list) else "*"
    choices = _choices(head, options)
    upload = declared_upload(name, type_, options)
    guess = kind_of_choices(choices) if choices and upload is None else None
    path = kind_of_path(name, type_, options)
    return InputSpec(
        name=name,
        type=type_,
        required=required,
        choices=choices,
        choice_set=_hashed(choices),
        minimum=_number(options.get("min")),
        maximum=_number(options.get("max")),
        default=options.get("default"),
        multiline=options.get("multiline") is True,
        upload=upload or guess or (path[0] if path else None),
        guessed=guess is not None,
        is_path=path is not None,
        is_directory=path is not None and path[1],
        multiselect=bool(options.get("multiselect")) or "multi_select" in options,
        dynamic=type_.startswith(_DYNAMIC_PREFIX),
    )


def _head_and_options(declaration: Any) -> tuple[Any, dict[str, Any]]:
    if isinstance(declaration, list) and declaration:
        options = declaration[1] if len(declaration) > 1 else None
        return declaration[0], options if isinstance(options, dict) else {}
    return declaration if isinstance(declaration, str) else "*", {}


def _choices(head: Any, options: dict[str, Any]) -> tuple[Any, ...] | None:
    if "remote" in options:
        return None  # the browser asks for these choices, the declaration has none
    if isinstance(head, list):
        return tuple(head)
    listed = options.get("options")
    return tuple(listed) if head == "COMBO" and isinstance(listed, list) else None


def _hashed(choices: tuple[Any, ...] | None) -> frozenset[Any] | None:
    try:
        return None if choices is None else frozenset(choices)
    except TypeError:
        return None


def _number(value: Any) -> float | None:
    # An int stays one: 2**64 - 1, the seeds' maximum, is no float.
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
