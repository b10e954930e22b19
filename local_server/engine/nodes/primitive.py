"""Nodes for plain values."""

from __future__ import annotations

import json
import sys
from typing import Any

from local_server.engine.schema import ANY, Node, Result, Shown, node

PRIMITIVES = "comfy_extras.nodes_primitive"
LIMITS = {"min": -sys.maxsize, "max": sys.maxsize}


def _same(value: Any) -> Result:
    """Give the value on."""
    return (value,)


def _primitive(name: str, title: str, kind: str, options: dict[str, Any]) -> Node:
    return node(
        name,
        category="utils/primitive",
        display_name=title,
        module=PRIMITIVES,
        schema3=True,
        required={"value": [kind, options]},
        outputs=(kind,),
    )(_same)


@node(
    "StringConcatenate",
    category="utils/string",
    display_name="Concatenate",
    module="comfy_extras.nodes_string",
    schema3=True,
    required={
        "string_a": ["STRING", {"multiline": True}],
        "string_b": ["STRING", {"multiline": True}],
        "delimiter": ["STRING", {"default": "", "multiline": False}],
    },
    outputs=("STRING",),
)
def string_concatenate(string_a: str, string_b: str, delimiter: str) -> Result:
    """Join two texts."""
    return (f"{string_a}{delimiter}{string_b}",)


@node(
    "PreviewAny",
    category="utils",
    display_name="Preview Any",
    module="comfy_extras.nodes_preview_any",
    required={"source": [ANY, {}]},
    output_node=True,
)
def preview_any(source: Any = None) -> Result:
    """Show a value as text: numbers as Python writes them, lists and objects as JSON."""
    if source is None or isinstance(source, (str, int, float)):
        return Shown({"text": [str(source)]})
    try:
        text = json.dumps(source)
    except (TypeError, ValueError):
        text = str(source)
    return Shown({"text": [text]})


NODES = (
    _primitive("PrimitiveString", "String", "STRING", {"multiline": False}),
    _primitive("PrimitiveStringMultiline", "String (Multiline)", "STRING", {"multiline": True}),
    _primitive("PrimitiveInt", "Int", "INT", {**LIMITS, "control_after_generate": True}),
    _primitive("PrimitiveFloat", "Float", "FLOAT", LIMITS),
    _primitive("PrimitiveBoolean", "Boolean", "BOOLEAN", {}),
    string_concatenate,
    preview_any,
)
