"""Checks a graph before it is queued, with ComfyUI's words for each fault.

Like there, faults that nobody checks for (a link to a missing node, a node without inputs) are
exceptions that become reports; the order of the checks decides which report a client gets.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from local_server.engine.schema import ANY, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from local_server.engine.folders import Folders

Graph = dict[str, Any]
Fault = dict[str, Any]
# More choices than this are not repeated in a report.
CHOICES_SHOWN = 20

_CONVERT: dict[str, Callable[[Any], Any]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What validation found.

    Attributes:
        error: why the whole prompt is refused; None if some output can run.
        outputs: ids of the output nodes that can run, in the graph's order.
        node_errors: faults by node id, also of outputs that are left out.
    """

    error: Fault | None
    outputs: list[str]
    node_errors: dict[str, Any]


@dataclass(slots=True)
class Checked:
    """One node's result.

    Attributes:
        valid: False also where only a node above it is at fault.
    """

    valid: bool
    faults: list[Fault]


def validate_prompt(
    graph: Any, nodes: Mapping[str, Node], folders: Folders, targets: Container[str] | None
) -> Verdict:
    """Check a graph and convert the literals in it, in place.

    Only the output nodes in `targets` are wanted; None wants all.

    Raises:
        Exception: whatever comes of a graph that is no object of objects; ComfyUI answers 500.
    """
    outputs = []
    for node_id in graph:
        if "class_type" not in graph[node_id]:
            text = "Cannot execute because a node is missing the class_type property."
            return _refused(_error("invalid_prompt", text, f"Node ID '#{node_id}'"))
        class_type = graph[node_id]["class_type"]
        if class_type not in nodes:
            text = f"Cannot execute because node {class_type} does not exist."
            return _refused(_error("invalid_prompt", text, f"Node ID '#{node_id}'"))
        if nodes[class_type].output_node and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        return _refused(_error("prompt_no_outputs", "Prompt has no outputs", ""))
    return _Validation(graph, nodes, folders).verdict(outputs)


def _refused(error: Fault, node_errors: dict[str, Any] | None = None) -> Verdict:
    return Verdict(error, [], node_errors or {})


def _error(kind: str, message: str, details: str, **extra_info: Any) -> Fault:
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


@dataclass(slots=True)
class _Validation:
    graph: Graph
    nodes: Mapping[str, Node]
    folders: Folders
    checked: dict[str, Checked] = field(default_factory=dict)
    on_path: set[str] = field(default_factory=set)

    def verdict(self, outputs: list[str]) -> Verdict:
        good: list[str] = []
        bad: list[Fault] = []
        node_errors: dict[str, Any] = {}
        for output in outputs:
            try:
                result = self.check(output)
            except Exception as problem:  # noqa: BLE001 - any fault of the graph is reported
                result = Checked(False, [_raised(problem)])
                self.checked[output] = result
                self.on_path.clear()
            if result.valid:
                good.append(output)
                continue
            bad += result.faults
            self._report(output, node_errors)
        if good:
            return Verdict(None, good, node_errors)
        details = "\n".join(f"{fault['message']}: {fault['details']}" for fault in bad)
        text = "Prompt outputs failed validation"
        return _refused(_error("prompt_outputs_failed_validation", text, details), node_errors)

    def _report(self, output: str, node_errors: dict[str, Any]) -> None:
        """Enter all faulty nodes known so far as faults of this output, as ComfyUI does."""
        for node_id, result in self.checked.items():
            if result.valid or not result.faults:
                continue
            entry = node_errors.setdefault(
                node_id,
                {
                    "errors": result.faults,
                    "dependent_outputs": [],
                    "class_type": self.graph[node_id]["class_type"],
                },
            )
            entry["dependent_outputs"].append(output)

    def check(self, node_id: str) -> Checked:
        """Check a node and all above it.

        Raises:
            Exception: the node has no inputs, or links to what is not there.
        """
        if node_id in self.checked:
            return self.checked[node_id]
        if node_id in self.on_path:
            # A cycle: every node on it is invalid, and none has a fault to tell.
            return Checked(False, [])
        inputs = self.graph[node_id]["inputs"]
        node = self.nodes[self.graph[node_id]["class_type"]]
        self.on_path.add(node_id)
        faults: list[Fault] = []
        valid = True
        for name in [*node.required, *node.optional]:
            if name not in inputs:
                if name in node.required:
                    text = "Required input is missing"
                    faults.append(_error("required_input_missing", text, name, input_name=name))
                continue
            if isinstance(inputs[name], list):
                valid &= self._check_link(node, name, inputs[name], faults)
            else:
                self._check_literal(node, name, inputs, faults)
        self._check_by_node(node, inputs, faults)
        self.on_path.discard(node_id)
        result = Checked(valid and not faults, faults)
        self.checked[node_id] = result
        return result

    def _check_link(self, node: Node, name: str, link: list[Any], faults: list[Fault]) -> bool:
        """Check a link and the node it comes from; False if a node above is at fault."""
        config = node.spec(self.folders, name)
        if len(link) != 2:
            text = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            told = {"input_name": name, "input_config": config, "received_value": link}
            faults.append(_error("bad_linked_input", text, name, **told))
            return True
        source, slot = link
        received = self.nodes[self.graph[source]["class_type"]].outputs[slot]
        if not _fits(received, config[0]):
            details = f"{name}, received_type({received}) mismatch input_type({config[0]})"
            told = {"input_name": name, "input_config": config}
            told |= {"received_type": received, "linked_node": link}
            text = "Return type mismatch between linked nodes"
            faults.append(_error("return_type_mismatch", text, details, **told))
            return True
        try:
            return self.check(source).valid
        except Exception as problem:  # noqa: BLE001 - any fault of the graph is reported
            self.on_path.discard(source)
            told = {"input_name": name, "input_config": config}
            fault = _raised(problem, inner=True)
            fault["extra_info"] = told | fault["extra_info"] | {"linked_node": link}
            self.checked[source] = Checked(False, [fault])
            return False

    def _check_literal(
        self, node: Node, name: str, inputs: dict[str, Any], faults: list[Fault]
    ) -> None:
        kind, options = config = node.spec(self.folders, name)
        value = inputs[name]
        told: dict[str, Any] = {"input_name": name, "input_config": config}
        if isinstance(value, dict) and "__value__" in value:
            # A list that is a value: bare lists are links.
            value = inputs[name] = value["__value__"]
        try:
            if isinstance(kind, str) and kind in _CONVERT:
                value = inputs[name] = _CONVERT[kind](value)
        except Exception as problem:  # noqa: BLE001 - whatever the conversion says is reported
            text = f"Failed to convert an input value to a {kind} value"
            told |= {"received_value": value, "exception_message": str(problem)}
            details = f"{name}, {value}, {problem}"
            faults.append(_error("invalid_input_type", text, details, **told))
            return
        if name in node.checks:
            return
        told["received_value"] = value
        if "min" in options and value < options["min"]:
            text = f"Value {value} smaller than min of {options['min']}"
            faults.append(_error("value_smaller_than_min", text, name, **told))
        elif "max" in options and value > options["max"]:
            text = f"Value {value} bigger than max of {options['max']}"
            faults.append(_error("value_bigger_than_max", text, name, **told))
        elif isinstance(kind, list) and value not in kind:
            shown = str(kind)
            if len(kind) > CHOICES_SHOWN:
                shown, told["input_config"] = f"(list of length {len(kind)})", None
            details = f"{name}: '{value}' not in {shown}"
            faults.append(_error("value_not_in_list", "Value not in list", details, **told))

    def _check_by_node(self, node: Node, inputs: dict[str, Any], faults: list[Fault]) -> None:
        for name, check in node.checks.items():
            if name not in inputs:
                # ComfyUI calls the node's own check without it; the report is what comes of that.
                text = f"{node.name}.VALIDATE_INPUTS() missing 1 required positional argument"
                raise TypeError(f"{text}: '{name}'")
            # A link has no value before the run.
            value = None if is_link(inputs[name]) else inputs[name]
            problem = check(self.folders, value)
            if problem is not None:
                text = "Custom validation failed for node"
                details = f"{name} - {problem}"
                faults.append(_error("custom_validation_failed", text, details, input_name=name))


def _raised(problem: Exception, *, inner: bool = False) -> Fault:
    """Report an exception as ComfyUI does, for an output or for a node above one."""
    told: dict[str, Any] = {
        "exception_type": full_type_name(type(problem)),
        "traceback": traceback.format_tb(problem.__traceback__),
    }
    if inner:
        told["exception_message"] = str(problem)
        text = "Exception when validating inner node"
        return _error("exception_during_inner_validation", text, str(problem), **told)
    text = "Exception when validating node"
    return _error("exception_during_validation", text, str(problem), **told)


def full_type_name(kind: type) -> str:
    """Name a class with its module, builtins without."""
    prefix = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return prefix + kind.__qualname__


def _fits(received: Any, wanted: Any) -> bool:
    """Tell whether an output of a type, or of several joined by commas, may feed an input."""
    if received == wanted or ANY in (received, wanted):
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    kinds = {kind.strip() for kind in received.split(",")}
    return bool(kinds & {kind.strip() for kind in wanted.split(",")})


def is_link(value: Any) -> bool:
    """Tell whether an input's value is a link `[node id, slot]`."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], (int, float))
    )
