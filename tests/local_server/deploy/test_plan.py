"""Differences, the plan as people see it, and carrying it out."""

from __future__ import annotations

import pytest

from local_server.deploy.faults import DeployFailed
from local_server.deploy.plan import (
    Action,
    Plan,
    Request,
    Step,
    carry_out,
    creation,
    differences,
    secrets_of,
)
from local_server.deploy.secret import Secret


def told(wanted, found):
    return [str(change) for change in differences(wanted, found)]


def test_only_what_is_wanted_is_compared():
    """Platforms tell more than they are given; nothing, none and empty are the same."""
    assert told({"a": 1, "l": [], "n": None}, {"a": 1, "more": 2}) == []
    assert told({"l": ["b", "a"]}, {"l": ["a", "b"]}) == []
    assert told({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == ["a.c: 3 -> 2"]
    assert told({"a": "new"}, {}) == ["a: (none) -> new"]


def test_variables_are_compared_as_a_whole_and_their_old_values_not_shown():
    """One that is gone is a difference; an old value may have been a secret."""
    wanted = {"env": {"A": "1", "T": Secret("canary-new"), "N": "2"}}
    found = {"env": {"A": "canary-a", "T": "canary-old", "GONE": "canary-gone"}}
    assert told(wanted, found) == [
        "env.A: (another value) -> 1",
        "env.GONE: (set) -> (none)",
        "env.N: 2",
        "env.T: (another value) -> ***",
    ]
    assert told({"env": {"T": Secret("same")}}, {"env": {"T": "same"}}) == []


def test_a_creation_lists_what_is_set():
    """Long values are cut, secrets masked."""
    changes = creation({"a": {"b": 1}, "e": "", "HF_TOKEN": "canary", "t": "x" * 500})
    assert [change.path for change in changes] == ["a.b", "HF_TOKEN", "t"]
    assert "canary" not in str(changes)
    assert len(str(changes[2])) < 120


def step(name, action=Action.CREATE, **body):
    request = Request("POST", f"http://x/{name}", body)
    return Step(subject=name, action=action, changes=creation(body), operation=request)


def test_the_plan_is_shown_as_a_table():
    """With its hints behind."""
    kept = Step(subject="queue q", action=Action.KEEP)
    plan = Plan(platform="Salad", steps=(kept, step("group g", image="a:b")), hints=("look",))
    assert plan.table().splitlines() == [
        "Salad:",
        "  no change  queue q",
        "  create     group g",
        "               image: a:b",
        "  hint: look",
    ]


def test_a_request_is_shown_masked():
    """Method, address, type and body."""
    request = Request("PATCH", "http://x/y", {"env": {"T": Secret("canary")}}, "application/x+json")
    assert request.shown().startswith("PATCH http://x/y\nContent-Type: application/x+json\n\n{")
    assert "canary" not in request.shown()
    plan = Plan(platform="P", steps=(Step(subject="s", action=Action.CREATE, operation=request),))
    assert secrets_of(plan) == {"canary"}


def test_steps_are_sent_in_order_and_told():
    """What needs nothing is left out."""
    plan = Plan(platform="P", steps=(step("a"), Step(subject="b", action=Action.KEEP), step("c")))
    lines: list[str] = []
    answers = carry_out(plan, lambda request: request.url, lines.append)
    assert answers == {"a": "http://x/a", "c": "http://x/c"}
    assert lines == ["a: created", "c: created"]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_failure_tells_what_was_done_and_what_not(at):
    """Whichever step it is."""
    plan = Plan(platform="P", steps=(step("a"), step("b", Action.UPDATE), step("c")))

    def send(request):
        if request.url.endswith("abc"[at]):
            raise DeployFailed("no", hint="do this")

    with pytest.raises(DeployFailed) as caught:
        carry_out(plan, send, lambda _line: None)
    message = caught.value.message
    done = ["nothing was done before it", "a (created)", "a (created), b (updated)"][at]
    left = ["not begun: b (update), c (create)", "not begun: c (create)", "failed: c (create)"][at]
    assert done in message
    assert left in message
    assert caught.value.hint.startswith("do this; the same command can be run again")
