from __future__ import annotations

from pathlib import Path

import pytest

from local_server.engine.folders import Folders
from local_server.engine.schema import Pixels, Result, Shown, node

FOLDERS = Folders(*[Path("/nowhere")] * 4)


@node(
    "Example",
    category="test",
    required={"image": ["IMAGE"]},
    optional={"kind": [lambda folders: [folders.input.name], {"default": "x"}]},
    outputs=("IMAGE",),
)
def example(image: Pixels, kind: str = "x") -> Result:
    return (image, kind)


def test_choices_may_depend_on_the_folders() -> None:
    """A function in the place of the choices is asked each time."""
    told = example.info(FOLDERS)

    assert told["input"]["optional"]["kind"] == [["nowhere"], {"default": "x"}]
    assert told["input_order"] == {"required": ["image"], "optional": ["kind"]}
    assert example.spec(FOLDERS, "kind") == (["nowhere"], {"default": "x"})
    assert example.spec(FOLDERS, "image") == ("IMAGE", {})
    with pytest.raises(KeyError):
        example.spec(FOLDERS, "other")


def test_a_node_names_itself_where_nothing_else_is_told() -> None:
    """The display name is the class name, and the outputs are named by type."""
    told = example.info(FOLDERS)

    assert told["display_name"] == told["name"] == "Example"
    assert told["output_name"] == told["output"] == ("IMAGE",)
    assert "experimental" not in told


def test_output_nodes_may_have_values_besides() -> None:
    """What is shown and what is given on are told apart."""
    assert Shown({"text": ["a"]}).values == ()
