"""What a node is: its name, its inputs as `/object_info` tells them, and a function.

Pixels are float32 arrays: an IMAGE is (batch, height, width, channels), a MASK (batch, height,
width), both from 0 to 1.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from local_server.engine.folders import Folders
    from local_server.engine.progress import Reporter

Pixels = NDArray[np.float32]

# An input's specification: [type or list of choices, options?].
Spec = list[Any]
Specs = Mapping[str, Spec]

ANY = "*"


@dataclass(frozen=True, slots=True)
class Call:
    """What a node may know besides its inputs.

    Attributes:
        node_id: the node's id in the graph.
        prompt: the whole graph.
        extra_pnginfo: what the client wants in PNG files besides the graph.
        metadata: whether files carry the graph.
        previews: whether steps are shown as pictures.
    """

    folders: Folders
    reporter: Reporter
    node_id: str
    prompt: dict[str, Any]
    extra_pnginfo: dict[str, Any] | None
    metadata: bool
    previews: bool

    def each(self, batch: Pixels, work: Callable[[Pixels], Pixels]) -> Pixels:
        """Do a batch picture by picture, each as a batch of one: an interrupt need not wait.

        Raises:
            InterruptError: somebody asked for the prompt to stop.
        """
        done = []
        for place in range(len(batch)):
            self.reporter.interruption.check()
            done.append(work(batch[place : place + 1]))
        return np.concatenate(done) if done else work(batch)


@dataclass(frozen=True, slots=True)
class Shown:
    """The result of an output node: what clients are told, and values if it has outputs.

    Attributes:
        ui: lists by medium, `{"images": [{"filename", "subfolder", "type"}]}`.
    """

    ui: dict[str, list[Any]]
    values: tuple[Any, ...] = ()


Result = tuple[Any, ...] | Shown


@dataclass(frozen=True, slots=True)
class Node:
    """One class of nodes.

    Attributes:
        run: takes the inputs by name, and a `Call` named `call` where it wants one.
        required, optional: inputs as `/object_info` tells them; the list of choices may be a
            function of the folders.
        hidden: inputs that the engine fills in, as `/object_info` tells them.
        outputs, output_names: types and names of the outputs.
        module: where ComfyUI has the node, `nodes` or `comfy_extras.nodes_images`.
        output_node: whether a graph may end here.
        schema3: whether ComfyUI declares it in its newer way, which shows in `/object_info`, and
            in that choices are not checked before the run.
        list_inputs: whether the node takes whole lists instead of being called for each item.
        list_outputs: whether the outputs are lists of items.
        checks: for an input, what says what is wrong with its value, or None; it stands in the
            place of the check against limits and choices.
        fingerprint: gives a value that changes when the node must run again on the same inputs.
    """

    name: str
    run: Callable[..., Result]
    category: str
    display_name: str | None
    module: str
    required: Specs = field(default_factory=dict)
    optional: Specs = field(default_factory=dict)
    hidden: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    output_node: bool = False
    schema3: bool = False
    experimental: bool = False
    list_inputs: bool = False
    list_outputs: bool = False
    checks: Mapping[str, Callable[[Folders, Any], str | None]] = field(default_factory=dict)
    fingerprint: Callable[[Folders, Mapping[str, Any]], Any] | None = None

    def __call__(self, call: Call, inputs: Mapping[str, Any]) -> Result:
        """Run the node once."""
        if "call" in inspect.signature(self.run).parameters:
            return self.run(call=call, **inputs)
        return self.run(**inputs)

    def spec(self, folders: Folders, name: str) -> tuple[Any, dict[str, Any]]:
        """Give the type, or the choices, and the options of an input.

        Raises:
            KeyError: the node has no such input.
        """
        found = self.required.get(name) or self.optional[name]
        kind, options = _resolved(found, folders)[0], found[1] if len(found) > 1 else {}
        return kind, options

    def info(self, folders: Folders) -> dict[str, Any]:
        """Describe the node as `/object_info` does."""
        groups: dict[str, Mapping[str, Any]] = {"required": self.required}
        if self.optional:
            groups["optional"] = self.optional
        shown: dict[str, dict[str, Any]] = {
            group: {name: _resolved(spec, folders) for name, spec in specs.items()}
            for group, specs in groups.items()
        }
        if self.hidden:
            shown["hidden"] = dict(self.hidden)
        told: dict[str, Any] = {
            "input": shown,
            "input_order": {group: list(specs) for group, specs in shown.items()},
            "output": self.outputs,
            "output_is_list": [self.list_outputs] * len(self.outputs),
            "output_name": self.output_names or self.outputs,
            "name": self.name,
            "display_name": self.display_name,
            "description": "",
            "python_module": self.module,
            "category": self.category,
            "output_node": self.output_node,
        }
        if self.schema3:
            told |= {"deprecated": False, "experimental": False, "api_node": False}
        if self.experimental:
            told["experimental"] = True
        return told


def _resolved(spec: Spec, folders: Folders) -> Spec:
    """Turn a function that gives choices into the choices."""
    if callable(spec[0]):
        return [spec[0](folders), *spec[1:]]
    return spec


def node(name: str, **facts: Any) -> Callable[[Callable[..., Result]], Node]:
    """Turn a function into a `Node`; `facts` are the node's further attributes."""
    facts.setdefault("display_name", name)
    facts.setdefault("module", "nodes")

    def made(run: Callable[..., Result]) -> Node:
        return Node(name=name, run=run, **facts)

    return made
