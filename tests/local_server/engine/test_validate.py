from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from local_server.engine.folders import Folders
from local_server.engine.nodes import catalog
from local_server.engine.schema import Node
from local_server.engine.validate import Verdict, full_type_name, is_link, validate_prompt

if TYPE_CHECKING:
    from pathlib import Path

NODES = catalog(test_faults=True)
EMPTY = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
SCALE = {"image": ["e", 0], "upscale_method": "area", "width": 4, "height": 4, "crop": "disabled"}


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(*(tmp_path / name for name in ("input", "output", "temp", "models")))
    made.input.mkdir()
    (made.input / "here.png").touch()
    return made


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def save(source: str, slot: Any = 0) -> dict[str, Any]:
    return node("SaveImage", images=[source, slot], filename_prefix="x")


def verdict(folders: Folders, graph: Any, targets: Any = None) -> Verdict:
    return validate_prompt(graph, NODES, folders, targets)


def fault_of(folders: Folders, tested: dict[str, Any]) -> dict[str, Any]:
    """Give the only fault of a node between an empty image and an output."""
    graph = {"e": node("EmptyImage", **EMPTY), "t": tested, "s": save("t")}
    found = verdict(folders, graph).node_errors
    assert list(found) == ["t"]
    assert found["t"]["dependent_outputs"] == ["s"]
    assert found["t"]["class_type"] == tested["class_type"]
    [fault] = found["t"]["errors"]
    return fault


@pytest.mark.parametrize(
    ("tested", "kind", "details"),
    [
        (
            node("ImageScale", **{**SCALE, "crop": "zzz"}),
            "value_not_in_list",
            "crop: 'zzz' not in ['disabled', 'center']",
        ),
        (
            node("ImageScale", **{**SCALE, "width": 99999}),
            "value_bigger_than_max",
            "width",
        ),
        (node("ImageScale", **{**SCALE, "width": -1}), "value_smaller_than_min", "width"),
        (
            node("ImageScale", **{**SCALE, "width": "many"}),
            "invalid_input_type",
            "width, many, invalid literal for int() with base 10: 'many'",
        ),
        (
            node("ImageScale", **{k: v for k, v in SCALE.items() if k != "height"}),
            "required_input_missing",
            "height",
        ),
        (node("ImageInvert", image=["e", 0, 0]), "bad_linked_input", "image"),
        (
            node("JoinImageWithAlpha", image=["e", 0], alpha=["e", 0]),
            "return_type_mismatch",
            "alpha, received_type(IMAGE) mismatch input_type(MASK)",
        ),
        (
            node("LoadImage", image="gone.png"),
            "custom_validation_failed",
            "image - Invalid image file: gone.png",
        ),
        (
            node("LoadImage"),
            "exception_during_inner_validation",
            "LoadImage.VALIDATE_INPUTS() missing 1 required positional argument: 'image'",
        ),
        (node("ImageInvert", image=["gone", 0]), "exception_during_inner_validation", "'gone'"),
        (
            node("ImageInvert", image=["e", 5]),
            "exception_during_inner_validation",
            "tuple index out of range",
        ),
        ({"class_type": "ImageInvert"}, "exception_during_inner_validation", "'inputs'"),
    ],
)
def test_each_fault_has_comfyuis_word(
    folders: Folders, tested: dict[str, Any], kind: str, details: str
) -> None:
    """The type and the details of a fault are those that ComfyUI reports."""
    fault = fault_of(folders, tested)

    assert (fault["type"], fault["details"]) == (kind, details)


def taking(kind: Any) -> dict[str, Node]:
    """Give the nodes and an output node `T` that takes one value of some type."""
    taker = Node(
        name="T",
        run=lambda value: (value,),
        category="",
        display_name=None,
        module="",
        required={"value": [kind]},
        output_node=True,
    )
    return {**NODES, "T": taker}


def test_long_lists_of_choices_are_not_repeated(folders: Folders) -> None:
    """With more than twenty choices only their number is told."""
    many = taking([str(number) for number in range(21)])
    found = validate_prompt({"t": node("T", value="x")}, many, folders, None)
    [fault] = found.node_errors["t"]["errors"]

    assert fault["details"] == "value: 'x' not in (list of length 21)"
    assert fault["extra_info"]["input_config"] is None


def test_choices_of_newer_nodes_are_not_checked(folders: Folders) -> None:
    """As in ComfyUI 0.3.64, a choice declared the newer way fails only while it runs."""
    blend = node("ImageBlend", image1=["e", 0], image2=["e", 0], blend_factor=0.5, blend_mode="?")

    graph = {"e": node("EmptyImage", **EMPTY), "t": blend, "s": save("t")}

    assert verdict(folders, graph).error is None


def test_literals_are_converted_in_place(folders: Folders) -> None:
    """Numbers may come as strings, and lists wrapped as values."""
    graph = {
        "e": node("EmptyImage", width="12", height=9.7, batch_size=True, color={"__value__": 3}),
        "s": node("SaveImage", images=["e", 0], filename_prefix=7),
    }

    assert verdict(folders, graph).error is None
    assert graph["e"]["inputs"] == {"width": 12, "height": 9, "batch_size": 1, "color": 3}
    assert graph["s"]["inputs"]["filename_prefix"] == "7"


def test_one_good_output_is_enough(folders: Folders) -> None:
    """The others are left out, with their faults told."""
    graph = {
        "e": node("EmptyImage", **EMPTY),
        "good": save("e"),
        "bad": save("gone"),
        "worse": save("t"),
        "t": node("ImageInvert", image="text", extra=1),
    }
    found = verdict(folders, graph)

    assert found.error is None
    assert found.outputs == ["good", "worse"]
    assert found.node_errors["bad"]["errors"][0]["type"] == "exception_during_validation"


def test_optional_inputs_may_be_missing(folders: Folders) -> None:
    """Only required ones are asked for."""
    place = {"x": 0, "y": 0, "resize_source": False}
    paste = node("ImageCompositeMasked", destination=["e", 0], source=["e", 0], **place)

    graph = {"e": node("EmptyImage", **EMPTY), "t": paste, "s": save("t")}

    assert verdict(folders, graph) == Verdict(None, ["s"], {})


def test_a_cycle_has_no_fault_of_its_own(folders: Folders) -> None:
    """The prompt is refused with empty node_errors."""
    graph = {
        "a": node("ImageInvert", image=["b", 0]),
        "b": node("ImageInvert", image=["a", 0]),
        "s": save("b"),
    }
    found = verdict(folders, graph)

    assert found.error is not None
    assert found.error["type"] == "prompt_outputs_failed_validation"
    assert found.node_errors == {}


def test_a_node_is_checked_once_for_two_outputs(folders: Folders) -> None:
    """A fault above two outputs is told once, with both."""
    graph = {
        "e": node("EmptyImage", **{**EMPTY, "width": 0}),
        "one": save("e"),
        "two": save("e"),
    }
    found = verdict(folders, graph)

    assert found.node_errors["e"]["dependent_outputs"] == ["one", "two"]
    assert len(found.node_errors["e"]["errors"]) == 1


@pytest.mark.parametrize(
    ("graph", "kind", "details"),
    [
        ({}, "prompt_no_outputs", ""),
        ({"e": node("EmptyImage", **EMPTY)}, "prompt_no_outputs", ""),
        ({"x": node("Nope")}, "invalid_prompt", "Node ID '#x'"),
        ({"x": {"inputs": {}}}, "invalid_prompt", "Node ID '#x'"),
    ],
)
def test_some_graphs_are_refused_as_a_whole(
    folders: Folders, graph: Any, kind: str, details: str
) -> None:
    """Unknown classes and graphs without outputs have no node errors."""
    found = verdict(folders, graph)

    assert found.error is not None
    assert (found.error["type"], found.error["details"]) == (kind, details)
    assert found.node_errors == {}


def test_only_wanted_outputs_are_checked(folders: Folders) -> None:
    """Targets leave other outputs out, faulty or not."""
    graph = {"e": node("EmptyImage", **EMPTY), "a": save("e"), "b": save("gone")}

    assert verdict(folders, graph, ["a"]) == Verdict(None, ["a"], {})
    assert verdict(folders, graph, []).error is not None


def test_links_are_told_from_values() -> None:
    """A link is a list of a node id and a number."""
    assert is_link(["1", 0])
    assert is_link(["1", 0.0])
    assert not any(map(is_link, ("1", ["1"], [1, 0], ["1", "0"], ["1", None], {"1": 0})))


def test_classes_are_named_with_their_module() -> None:
    """Builtins have none."""
    assert full_type_name(ValueError) == "ValueError"
    assert full_type_name(Folders) == "local_server.engine.folders.Folders"


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        ("IMAGE", True),
        ("MASK, IMAGE", True),
        ("*", True),
        ("MASK,LATENT", False),
        (["a", "b"], False),
    ],
)
def test_types_joined_by_commas_fit_if_they_share_one(
    folders: Folders, kind: Any, fits: bool
) -> None:
    """An input may take several types, and * takes all."""
    graph = {"e": node("EmptyImage", **EMPTY), "t": node("T", value=["e", 0])}
    found = validate_prompt(graph, taking(kind), folders, None)

    assert (found.error is None) == fits
