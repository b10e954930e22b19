"""What can be wrong with one input of a node: its link, or its value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from handler.graph.faults import Problem, quoted
from handler.graph.file_kinds import is_model_name, kind_of_name
from handler.graph.links import as_link

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handler.graph.nearest import Suggestions
    from handler.graph.object_info import InputSpec, NodeSpec

# Types that no widget makes: a value of them comes from another node or not at all.
_CORE = "IMAGE MASK LATENT MODEL CLIP VAE CONDITIONING"
_MORE = (
    "CONTROL_NET CLIP_VISION CLIP_VISION_OUTPUT STYLE_MODEL GLIGEN UPSCALE_MODEL SAMPLER SIGMAS "
    "NOISE GUIDER AUDIO VIDEO HOOKS HOOK_KEYFRAMES MESH VOXEL SVG PHOTOMAKER LORA_MODEL LOSS_MAP "
    "AUDIO_ENCODER AUDIO_ENCODER_OUTPUT TIMESTEPS_RANGE LATENT_OPERATION MODEL_PATCH"
)
_CORE_LINKS = frozenset(_CORE.split())
_LINKS = _CORE_LINKS.union(_MORE.split())
_PLAIN = _LINKS | {"INT", "FLOAT", "STRING", "BOOLEAN"}

# Its choices are made in the browser, and its own validation takes anything.
_FREE_CHOICES = frozenset({("CustomCombo", "choice")})

_LISTED_CHOICES = 10


def missing_problem(declared: InputSpec, sent: tuple[str, ...] = ()) -> Problem:
    """Word that a required input is missing.

    Args:
        sent: names that were sent and look like it, best first.
    """
    slip = f"did you mean {quoted(declared.name)} by {quoted(sent[0])}? " if sent else ""
    return Problem(
        "required_input_missing",
        f"input {quoted(declared.name)} is missing",
        hint=f"{slip}it takes {_expected(declared)}",
    )


def link_problem(
    declared: InputSpec,
    value: list[Any],
    spec: NodeSpec,
    graph: Mapping[str, Any],
    specs: Mapping[str, NodeSpec],
    *,
    strict: bool,
) -> Problem | None:
    """Find what is wrong with a list given for an input: the engine takes any list for a link."""
    link = as_link(value)
    name = quoted(declared.name)
    if link is None:
        # Lists of files become a directory before the engine sees them.
        if declared.multiselect or _is_file_list(declared, value):
            return None
        return Problem(
            "bad_linked_input",
            f"the list in input {name} is no link",
            hint='a link is ["<node id>", <output slot>], a text and an integer',
            received=value,
        )
    source, slot = link
    if source not in graph:
        message = f"input {name} is linked to node {quoted(source)}, which is not there"
        return Problem("dangling_link", message, received=value)
    from_spec = specs.get(source)
    if from_spec is None:  # a fault of that node, told there
        return None
    problem = _slot_problem(declared, slot, from_spec)
    # Packs have outputs that answer to any slot, and types that equal any other.
    doubtful = from_spec.custom or (spec.custom and problem == "return_type_mismatch")
    if problem is None or (doubtful and not strict):
        return None
    here = f"output {slot} of node {source} ({from_spec.display_name})"
    outputs = [f"{index} {type_}" for index, type_ in enumerate(from_spec.outputs)]
    hint = f"its outputs: {', '.join(outputs[:_LISTED_CHOICES]) or 'none'}"
    if problem == "dangling_link":
        message = f"input {name} is linked to {here}, which is not there"
        return Problem("dangling_link", message, hint=hint, received=value)
    message = f"input {name} takes {declared.type}, and {here} gives {from_spec.outputs[slot]}"
    return Problem("return_type_mismatch", message, hint=hint, received=value)


def _slot_problem(declared: InputSpec, slot: int, from_spec: NodeSpec) -> str | None:
    outputs = from_spec.outputs
    if not -len(outputs) <= slot < len(outputs):
        # Slots of an output that expands are counted after expansion.
        return None if any(o.startswith("COMFY_") for o in outputs) else "dangling_link"
    given, wanted = outputs[slot], declared.type
    mismatch = given != wanted and given in _PLAIN and wanted in _PLAIN
    return "return_type_mismatch" if mismatch else None


def literal_problem(
    declared: InputSpec, value: Any, spec: NodeSpec, suggestions: Suggestions, *, strict: bool
) -> Problem | None:
    """Find what is wrong with a value that is no list."""
    type_ = declared.type
    if type_ in ("INT", "FLOAT"):
        return _number_problem(declared, value, limits=strict or not spec.custom)
    if declared.choices is not None:
        if declared.has_choice(value):
            return None
        return _choice_problem(declared, value, spec, suggestions, strict=strict)
    if type_ not in _LINKS or declared.upload:
        return None
    # A pack may draw a widget for such a type, or read a text in an optional input.
    if spec.custom and not strict and not (declared.required and type_ in _CORE_LINKS):
        return None
    return Problem(
        "literal_for_link",
        f"input {quoted(declared.name)} takes {type_} by a link, not {quoted(value)}",
        hint=_link_hint(type_),
        received=value,
    )


def _number_problem(declared: InputSpec, value: Any, *, limits: bool) -> Problem | None:
    name = quoted(declared.name)
    try:
        # As the engine does: "64" and 64.9 are fine for an INT.
        number = int(value) if declared.type == "INT" else float(value)
    except (TypeError, ValueError, OverflowError):
        message = f"input {name} takes {_expected(declared)}, not {quoted(value)}"
        return Problem("invalid_input_type", message, received=value)
    low, high = declared.minimum, declared.maximum
    hint = f"it takes {_expected(declared)}"
    if limits and low is not None and number < low:
        message = f"input {name} is {quoted(value)}, less than {low}"
        return Problem("value_smaller_than_min", message, hint=hint, received=value)
    if limits and high is not None and number > high:
        message = f"input {name} is {quoted(value)}, more than {high}"
        return Problem("value_bigger_than_max", message, hint=hint, received=value)
    return None


def _choice_problem(
    declared: InputSpec, value: Any, spec: NodeSpec, suggestions: Suggestions, *, strict: bool
) -> Problem | None:
    choices = declared.choices or ()
    if declared.multiselect or (spec.class_type, declared.name) in _FREE_CHOICES:
        return None
    # Files of the input folder are valid by being there, whatever is listed.
    unlisted_file = not choices and isinstance(value, str) and kind_of_name(value) is not None
    if not strict and (spec.custom or declared.upload or unlisted_file):
        return None
    near = suggestions.near(value, choices)
    missing_file = isinstance(value, str) and is_model_name(value) and not near
    return Problem(
        "value_not_in_list",
        f"input {quoted(declared.name)} has no choice {quoted(value)}",
        hint=_choices_hint(choices, near),
        received=value,
        near=near,
        blame="image" if missing_file else "caller",
    )


def _is_file_list(declared: InputSpec, value: list[Any]) -> bool:
    takes_files = declared.is_directory or declared.name == "directory"
    return takes_files and bool(value) and all(isinstance(item, str) for item in value)


def _expected(declared: InputSpec) -> str:
    """Say in words what an input takes: "an integer from 1 to 10000"."""
    if declared.choices is not None:
        return f"one of {len(declared.choices)} choices" if declared.choices else "a listed choice"
    words = {"INT": "an integer", "FLOAT": "a number", "STRING": "a text", "BOOLEAN": "a boolean"}
    said = words.get(declared.type)
    if said is None:
        return f"a link to a node that gives {declared.type}"
    low, high = declared.minimum, declared.maximum
    if low is not None and high is not None:
        return f"{said} from {low} to {high}"
    if low is not None:
        return f"{said} of {low} or more"
    return f"{said} up to {high}" if high is not None else said


def _choices_hint(choices: tuple[Any, ...], near: tuple[str, ...]) -> str:
    if not choices:
        return "there is nothing to choose from here: no such file is installed"
    if len(choices) <= _LISTED_CHOICES:
        return f"choices: {', '.join(quoted(choice) for choice in choices)}"
    if near:
        return f"nearest of {len(choices)} choices: {', '.join(quoted(n) for n in near)}"
    return f"none of its {len(choices)} choices is like it"


def _link_hint(type_: str) -> str:
    loader = {
        "IMAGE": "LoadImage",
        "MASK": "LoadImageMask",
        "AUDIO": "LoadAudio",
        "VIDEO": "LoadVideo",
        "LATENT": "LoadLatent",
    }.get(type_)
    return f"load a file with {loader} and link to it" if loader else "link to such a node"
