"""A library of models over the engine in memory and a host of files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from handler.graph.model_inputs import model_inputs

if TYPE_CHECKING:
    from handler.graph.model_inputs import ModelInput
    from handler.pipeline.stages import Parts

FOLDERS = ("checkpoints", "loras", "odd_ones", "more_odd_ones", "diffusers")


def loader(choices: list[Any], name: str = "name", module: str = "nodes") -> dict[str, Any]:
    """Give a class that lists files of folders, `@loras`."""
    return {
        "input": {"required": {name: [choices]}},
        "output": ["IMAGE"],
        "output_node": False,
        "python_module": module,
    }


LOADERS = {
    "LoraLoader": loader(["None", "@loras"], "lora_name"),
    "CheckpointLoader": loader(["@checkpoints"], "ckpt_name"),
    "OddLoader": loader(["@odd_ones"], "thing", "custom_nodes.odd"),
    "DiffusersLoader": loader(["@diffusers"], "model_path"),
    "Unrelated": loader([], "thing", "custom_nodes.odd"),
    "PowerLoader": loader(["yes", "no"], "enabled", "custom_nodes.power"),
}


async def wants(parts: Parts, class_type: str, **inputs: Any) -> list[ModelInput]:
    """Find the model inputs of a graph of one node, as the pipeline does."""
    graph = {"7": {"class_type": class_type, "inputs": inputs, "_meta": {"title": "mine"}}}
    await parts.engine.refresh_class(class_type)
    listings = await parts.models.listings(fresh=True)
    return model_inputs(graph, await parts.engine.object_info(), listings, parts.models.known)


def digits(content: bytes) -> str:
    """Give the digits that end the published name of some content."""
    return hashlib.sha256(content).hexdigest()[:10]
