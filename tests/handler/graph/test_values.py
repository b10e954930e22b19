"""Faults of single inputs."""

from __future__ import annotations

import pytest

from handler.graph.nearest import Suggestions
from handler.graph.object_info import ObjectInfo
from handler.graph.values import link_problem, literal_problem, missing_problem

NUMBERS = {"INT": {"min": 1, "max": 10}, "FLOAT": {"min": 0.5}, "STRING": {}, "BOOLEAN": {}}


def declared(type_, options=None, *, required=True, custom=False, name="x"):
    section = "required" if required else "optional"
    module = "custom_nodes.pack" if custom else "nodes"
    entry = {"input": {section: {name: [type_, options or {}]}}, "python_module": module}
    spec = ObjectInfo({"A": entry}).node("A")
    return spec, spec.inputs[name]


def literal(type_, value, options=None, *, strict=False, **more):
    spec, what = declared(type_, options, **more)
    return literal_problem(what, value, spec, Suggestions(9), strict=strict)


def kind(problem):
    return problem and problem.type


@pytest.mark.parametrize(
    ("type_", "value", "fault"),
    [
        ("INT", 5, None),
        ("INT", "5", None),
        ("INT", " 5 ", None),
        ("INT", 5.9, None),
        ("INT", 10.9, None),
        ("INT", True, None),
        ("INT", "5.5", "invalid_input_type"),
        ("INT", "abc", "invalid_input_type"),
        ("INT", "", "invalid_input_type"),
        ("INT", None, "invalid_input_type"),
        ("INT", {}, "invalid_input_type"),
        ("INT", float("inf"), "invalid_input_type"),
        ("INT", "9" * 100_000, "invalid_input_type"),
        ("INT", 0, "value_smaller_than_min"),
        ("INT", 11, "value_bigger_than_max"),
        ("INT", "11", "value_bigger_than_max"),
        ("FLOAT", "0.5", None),
        ("FLOAT", 1e300, None),
        ("FLOAT", float("nan"), None),
        ("FLOAT", 0.4, "value_smaller_than_min"),
        ("FLOAT", "x", "invalid_input_type"),
        ("STRING", 5, None),
        ("STRING", None, None),
        ("BOOLEAN", "no", None),
    ],
)
def test_numbers_are_read_as_the_engine_reads_them(type_, value, fault):
    """Numeric texts and floats pass for an INT; limits hold for what they become."""
    assert kind(literal(type_, value, NUMBERS[type_])) == fault


@pytest.mark.parametrize(
    ("seed", "fault"),
    [(2**64 - 1, None), (2**64, "value_bigger_than_max"), (-1, "value_smaller_than_min")],
)
def test_seeds_go_to_two_to_the_sixty_fourth(info, seed, fault):
    """The limits are exact where floats are not."""
    spec = info.node("KSampler")
    problem = literal_problem(spec.inputs["seed"], seed, spec, Suggestions(9), strict=False)

    assert kind(problem) == fault


@pytest.mark.parametrize(
    ("value", "good"), [("euler", True), ("eular", False), (5, False), ({}, False)]
)
def test_choices(value, good):
    """Only what is listed passes, in the list form and in the COMBO form."""
    choices = ["euler", "heun"]
    fault = None if good else "value_not_in_list"

    assert kind(literal(choices, value)) == fault
    assert kind(literal("COMBO", value, {"options": choices})) == fault


@pytest.mark.parametrize(
    ("head", "options", "value"),
    [
        ("COMBO", {}, "anything"),
        ("COMBO", {"remote": {"route": "/x"}}, "anything"),
        ("COMBO", {"options": ["a"], "multiselect": True}, {"b": 1}),
        (["example.png"], {"image_upload": True}, "sub/other.png [temp]"),
        (["a.latent", "b.latent"], {}, "c.latent"),
        ([], {}, "https://x.test/c.latent"),
        ("*", {}, "anything"),
        ("INT,FLOAT", {"min": 5}, 1),
        ("IMAGE,STRING", {}, "text"),
        ("RECRAFT_COLOR", {}, "red"),
        ("WEBCAM", {}, "webcam/1.png [temp]"),
    ],
)
def test_where_the_declaration_leaves_doubt_there_is_no_fault(head, options, value):
    """Unknown choices, files, wildcards, unions and widgets of other makes."""
    assert literal(head, value, options) is None


def test_an_empty_list_has_no_such_model():
    """A model where none is installed is a fault of the image."""
    problem = literal([], "style.safetensors")

    assert (problem.type, problem.blame, problem.near) == ("value_not_in_list", "image", ())
    assert "nothing to choose from" in problem.hint


def test_short_lists_are_shown_whole_and_long_ones_by_their_nearest():
    """No answer carries hundreds of choices."""
    short, long = [f"choice {n}" for n in range(3)], [f"choice {n:03}" for n in range(300)]

    assert literal(short, "x").hint == 'choices: "choice 0", "choice 1", "choice 2"'
    assert literal(long, "choice 25").hint.startswith('nearest of 300 choices: "choice 025"')
    assert len(literal(long, "choice 25").near) == 5
    assert literal(long, "zzz").hint == "none of its 300 choices is like it"
    assert literal(long, "zzz").blame == "caller"


@pytest.mark.parametrize(
    ("type_", "required", "custom", "certain"),
    [
        ("IMAGE", True, False, True),
        ("IMAGE", False, False, True),
        ("AUDIO", True, False, True),
        ("IMAGE", True, True, True),
        ("IMAGE", False, True, False),
        ("AUDIO", True, True, False),
    ],
)
def test_a_literal_where_a_link_is_due(type_, required, custom, certain):
    """ComfyUI does not catch it; packs get the benefit of the doubt unless `strict`."""
    more = {"required": required, "custom": custom}

    assert kind(literal(type_, "hello", **more)) == ("literal_for_link" if certain else None)
    assert kind(literal(type_, "hello", strict=True, **more)) == "literal_for_link"


def test_hints_name_the_loader():
    """An image wants LoadImage, a model just a link."""
    assert "LoadImage" in literal("IMAGE", "hello").hint
    assert "LoadImage" not in literal("MODEL", "hello").hint


@pytest.mark.parametrize(
    ("head", "options", "value", "fault"),
    [
        (["a"], {}, "b", "value_not_in_list"),
        ("INT", {"max": 3}, 4, "value_bigger_than_max"),
    ],
)
def test_a_packs_own_validation_may_waive_choices_and_limits(head, options, value, fault):
    """So they are faults of a pack's node only if `strict`."""
    assert literal(head, value, options, custom=True) is None
    assert kind(literal(head, value, options, custom=True, strict=True)) == fault
    assert kind(literal("INT", "x", custom=True)) == "invalid_input_type"


def test_choices_made_in_the_browser_are_free():
    """The engine's CustomCombo takes any choice."""
    raw = {"CustomCombo": {"input": {"required": {"choice": ["COMBO", {"options": []}]}}}}
    spec = ObjectInfo(raw).node("CustomCombo")
    choice = spec.inputs["choice"]

    assert literal_problem(choice, "mine", spec, Suggestions(1), strict=True) is None


@pytest.mark.parametrize(
    ("head", "options", "words"),
    [
        ("INT", {"min": 1, "max": 3}, "an integer from 1 to 3"),
        ("INT", {"min": 1}, "an integer of 1 or more"),
        ("FLOAT", {"max": 3.5}, "a number up to 3.5"),
        ("STRING", {}, "a text"),
        ("MODEL", {}, "a link to a node that gives MODEL"),
        (["a", "b"], {}, "one of 2 choices"),
        ([], {}, "a listed choice"),
    ],
)
def test_a_missing_input_says_what_it_takes(head, options, words):
    """The hint is the declaration in words."""
    assert missing_problem(declared(head, options)[1]).hint == f"it takes {words}"


SOURCES = {
    "Two": {"output": ["IMAGE", "MASK"], "python_module": "nodes"},
    "Any": {"output": ["*", "IMAGE,MASK", ["a", "b"]], "python_module": "nodes"},
    "Pack": {"output": ["LATENT"], "python_module": "custom_nodes.p"},
    "Grow": {"output": ["COMFY_AUTOGROW_V3"], "python_module": "nodes"},
}


def link(value, type_="IMAGE", *, strict=False, **more):
    info = ObjectInfo(SOURCES)
    specs = {name: info.node(name) for name in SOURCES}
    spec, what = declared(type_, **more)
    graph = {**dict.fromkeys(SOURCES), "unknown": None}
    return kind(link_problem(what, value, spec, graph, specs, strict=strict))


@pytest.mark.parametrize(
    ("value", "type_", "fault"),
    [
        (["Two", 0], "IMAGE", None),
        (["Two", 1], "IMAGE", "return_type_mismatch"),
        (["Two", 1], "IMAGE,MASK", None),
        (["Two", 0], "STRING", "return_type_mismatch"),
        (["Two", 0], "*", None),
        (["Two", 0], "PIPE", None),
        (["Two", 2], "IMAGE", "dangling_link"),
        (["Two", -2], "IMAGE", None),
        (["Two", -3], "IMAGE", "dangling_link"),
        (["Any", 0], "MODEL", None),
        (["Any", 1], "MODEL", None),
        (["Any", 2], "STRING", None),
        (["Grow", 7], "IMAGE", None),
        (["unknown", 7], "IMAGE", None),
        (["77", 0], "IMAGE", "dangling_link"),
        ([1, 0], "IMAGE", "bad_linked_input"),
        (["Two", 0, 0], "IMAGE", "bad_linked_input"),
        (["Two"], "STRING", "bad_linked_input"),
        (["a.png", "b.png"], "STRING", "bad_linked_input"),
        ([], "INT", "bad_linked_input"),
    ],
)
def test_links(value, type_, fault):
    """A link leads to an output that is there and of the type; other lists are no links."""
    assert link(value, type_) == fault


@pytest.mark.parametrize("custom", [True, False])
def test_outputs_of_packs_are_doubtful(custom):
    """A pack's types may equal any other, its outputs answer to any slot."""
    assert link(["Pack", 0], custom=custom) is None
    assert link(["Pack", 5], custom=custom) is None
    assert link(["Pack", 0], strict=True, custom=custom) == "return_type_mismatch"
    assert link(["Pack", 5], strict=True, custom=custom) == "dangling_link"


def test_inputs_of_packs_may_take_more_than_they_declare():
    """A core node's slot is certain, the type that a pack takes is not."""
    assert link(["Two", 1], custom=True) is None
    assert link(["Two", 1], custom=True, strict=True) == "return_type_mismatch"
    assert link(["Two", 9], custom=True) == "dangling_link"


def test_lists_of_files_are_left_to_whoever_fetches_them():
    """A directory takes a list, also one of two texts; an empty list or a number in it is wrong."""
    assert link(["a.png", "b.png"], "STRING", name="directory") is None
    assert link(["a.png"], "STRING", options={"vhs_path_extensions": []}) is None
    assert link([], "STRING", name="directory") == "bad_linked_input"
    assert link(["a.png", 3.5], "STRING", name="directory") == "bad_linked_input"
    assert link(["a", "b", "c"], "COMBO", options={"multiselect": True}) is None
