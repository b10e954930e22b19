"""How far each model is."""

from __future__ import annotations

from handler.manifest.model_states import ModelStates
from handler.manifest.plan import make_plan
from handler.manifest.schema import parse_manifest
from handler.manifest.timeline import Timeline
from handler.transfer.records import Progress

MANIFEST = parse_manifest("""
pip: [x]
models:
  before_start:
    - {url: https://e.org/a.bin, folder: vae}
  after_start:
    - {url: https://e.org/b.bin, folder: vae}
    - {url: https://e.org/c.bin, folder: vae}
""")


def test_each_model_has_a_state():
    """What it waits for, how far it is, how it ended."""
    states, plan, timeline = ModelStates(), make_plan(MANIFEST), Timeline()
    told = {one["name"]: one for one in states.report(plan, timeline.records)}
    assert told["a.bin"] == {
        "name": "a.bin",
        "when": "before_start",
        "state": "waiting",
        "bytes": 0,
        "total": None,
        "mb_per_s": None,
        "error": None,
    }
    first, second = timeline.begin("model a.bin"), timeline.begin("after start: b.bin")
    states.listen(MANIFEST.before_start[0])(Progress(5_000_000, 10_000_000, 2e6))
    timeline.end(second, "warned", "no such file")
    told = {one["name"]: one for one in states.report(plan, timeline.records)}
    assert told["a.bin"]["state"] == "fetching"
    assert (told["a.bin"]["bytes"], told["a.bin"]["total"]) == (5_000_000, 10_000_000)
    assert told["a.bin"]["mb_per_s"] == 2.0
    assert (told["b.bin"]["state"], told["b.bin"]["error"]) == ("failed", "no such file")
    assert (told["b.bin"]["when"], told["c.bin"]["state"]) == ("after_start", "waiting")
    timeline.end(first, "done")
    assert states.report(plan, timeline.records)[0]["state"] == "there"


def test_what_is_being_done_is_told_in_words():
    """Seconds, or percent where the size is known; what ended is left out."""
    states, plan, timeline = ModelStates(), make_plan(MANIFEST), Timeline(clock=lambda: 0.0)
    assert states.words(plan, timeline.records, 0) is None
    pip = timeline.begin("pip")
    timeline.begin("model a.bin")
    timeline.begin("something of others")
    assert states.words(plan, timeline.records, 12.3) == "pip (12 s); model a.bin (12 s)"
    states.listen(MANIFEST.before_start[0])(Progress(43, 100, 1.0))
    timeline.end(pip, "done")
    assert states.words(plan, timeline.records, 12.3) == "model a.bin 43 %"


def test_many_are_not_all_named():
    """A line stays a line."""
    models = "".join(f"    - {{url: https://e.org/{n}.bin, folder: vae}}\n" for n in range(9))
    plan = make_plan(parse_manifest(f"models:\n  before_start:\n{models}"))
    timeline = Timeline()
    for task in plan:
        timeline.begin(task.name)
    told = ModelStates().words(plan, timeline.records, 1)
    assert told.endswith("; 3 more")
    assert told.count(";") == 6
