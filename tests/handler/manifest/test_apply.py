"""Plans carried out: order, overlap, failures, and what never fails."""

from __future__ import annotations

import asyncio

import pytest

from handler.errors import InputFailed
from handler.manifest.apply import ColdStart
from handler.manifest.faults import InstallFailed
from handler.manifest.plan import Task


class Script:
    """Does steps as it is told: each waits until it is let go, or raises."""

    def __init__(self, **faults):
        self.faults = faults
        self.begun = []
        self.over = []
        self.gates = {}

    def hold(self, *names):
        self.gates |= {name: asyncio.Event() for name in names}

    async def __call__(self, task):
        self.begun.append(task.name)
        if task.name in self.gates:
            await self.gates[task.name].wait()
        self.over.append(task.name)
        if task.name in self.faults:
            raise self.faults[task.name]
        return f"did {task.name}"


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def started(plan, script):
    start = ColdStart(plan, script)
    start.begin()
    return start


def model(name, gate="warmup", **options):
    return Task(name, "model", gate=gate, **options)


async def test_models_run_beside_the_installation():
    """The engine may start while a model is still on its way; the warmup may not."""
    script = Script()
    script.hold("model")
    plan = [Task("apt", "apt"), Task("pip", "pip", needs=("apt",)), model("model")]
    start = started(plan, script)
    await start.before_engine()
    assert script.over == ["apt", "pip"]
    assert "model" in script.begun

    waiting = asyncio.create_task(start.before_warmup())
    await until(lambda: "model" in script.begun)
    assert not waiting.done()
    script.gates["model"].set()
    await waiting
    assert [(r.name, r.outcome) for r in start.timeline.records] == [
        ("apt", "done"),
        ("model", "done"),
        ("pip", "done"),
    ]


async def test_a_failure_is_told_and_what_needs_it_is_left_out():
    """Every failed step is in the error; what depends on one is skipped."""
    script = Script(a=InstallFailed("a broke", hint="mend a"), b=InstallFailed("b broke"))
    plan = [Task("a", "pack"), Task("b", "pack"), Task("pip", "pip", needs=("a", "b"))]
    start = started(plan, script)
    with pytest.raises(InstallFailed, match=r"(?s)a broke.*b broke") as caught:
        await start.before_engine()

    assert caught.value.hint == "mend a"
    assert [one["step"] for one in caught.value.details] == ["a", "b"]
    assert start.outcome("pip") == "skipped"


async def test_an_optional_step_only_warns():
    """What is optional fails alone, with its own followers."""
    script = Script(spare=InstallFailed("broke"))
    plan = [
        Task("spare", "pack", optional=True),
        Task("good", "pack"),
        Task("pip", "pip", needs=("good",), follows=("spare",)),
        Task("script spare", "script", needs=("pip", "spare"), optional=True),
        Task("script good", "script", needs=("pip", "good"), follows=("script spare",)),
    ]
    start = started(plan, script)
    await start.before_engine()

    outcomes = {r.name: r.outcome for r in start.timeline.records}
    assert outcomes == {
        "spare": "warned",
        "good": "done",
        "pip": "done",
        "script spare": "skipped",
        "script good": "done",
    }


async def test_after_start_never_blocks_and_never_raises():
    """Later files wait for nobody's sake, and their failures are only in the record."""
    script = Script(later=InputFailed("gone"), bad=RuntimeError("a fault of ours"))
    script.hold("later")
    plan = [
        model("first"),
        model("later", "none", follows=("first",), optional=True),
        model("bad", "none", optional=True),
    ]
    start = started(plan, script)
    await start.before_engine()
    await start.before_warmup()
    script.gates["later"].set()
    await start.finished()

    assert (start.outcome("later"), start.outcome("bad")) == ("warned", "warned")
    assert start.faults["later"].message == "gone"


async def test_a_model_that_fails_does_not_stop_the_engine():
    """It stops the warmup."""
    start = started([Task("pip", "pip"), model("m")], Script(m=InputFailed("404")))
    await start.before_engine()
    with pytest.raises(InstallFailed, match="404"):
        await start.before_warmup()


async def test_a_failure_is_logged_once(caplog):
    """As a warning; what went well is told for itself."""
    caplog.set_level("INFO")
    plan = [Task("good", "pack"), Task("bad", "pack"), model("after", "none", optional=True)]
    start = started(plan, Script(bad=InstallFailed("broke"), after=InputFailed("gone")))
    await start.finished()
    told = [(one.levelname, one.message.partition(" (")[0]) for one in caplog.records]
    assert sorted(told) == [
        ("INFO", "good: done did good"),
        ("WARNING", "after failed, and goes without: gone"),
        ("WARNING", "bad failed: broke"),
    ]


async def test_an_unforeseen_exception_is_a_failure_of_its_step():
    """Even a fault of ours is told by the step it came from."""
    start = started([Task("pip", "pip")], Script(pip=KeyError("x")))
    with pytest.raises(InstallFailed, match="pip: KeyError"):
        await start.before_engine()


async def test_stopping_cancels_everything_that_runs():
    """Steps end, and those who wait hear of it."""
    script = Script()
    script.hold("a", "m")
    start = started([Task("a", "pack"), Task("b", "pip", needs=("a",)), model("m")], script)
    waiting = asyncio.create_task(start.before_engine())
    await until(lambda: len(script.begun) == 2)
    await start.stop()
    with pytest.raises(InstallFailed, match="stopped"):
        await waiting
    await start.finished()

    assert {r.outcome for r in start.timeline.records} == {"cancelled"}
    assert script.over == []


async def test_an_empty_plan_is_over_at_once():
    """No manifest, no wait."""
    start = started([], Script())
    await start.before_engine()
    await start.before_warmup()
    await start.finished()
    assert start.timeline.chart() == "nothing to do"
