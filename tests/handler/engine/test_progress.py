import json
from pathlib import Path

import pytest

from handler.engine.events import (
    Failed,
    Gone,
    Interrupted,
    NodeOutput,
    NodeProgress,
    NodesCached,
    NodeStarted,
    Preview,
    Started,
    Succeeded,
)
from handler.engine.execution import Execution
from handler.engine.messages import parse
from handler.engine.progress import ProgressMeter, ProgressView

TRANSCRIPTS = Path(__file__).parents[2] / "recordings" / "transcripts"

GRAPH = {
    "load": {"class_type": "Loader", "inputs": {"name": "x"}, "_meta": {"title": "Model"}},
    "sample": {"class_type": "KSampler", "inputs": {"model": ["load", 0], "size": [64, 64]}},
    "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0]}},
    "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0]}},
}


def feed(meter, *events):
    """Feed (event, now) pairs and give the last view."""
    view = None
    for event, now in events:
        view = meter.feed(event, now)
    return view


def test_nodes_and_their_steps_count():
    """Each node is an equal share, and the working one counts by its steps."""
    meter = ProgressMeter(GRAPH, 0.0)

    assert ProgressView(None, None, 0.0, 1.0, 0.0, None) == meter.view(0.0)
    feed(meter, (Started(1), 0.0), (NodeStarted("load"), 0.0))
    view = feed(meter, (NodeStarted("sample"), 1.0), (NodeProgress("sample", 2, 4), 3.0))
    assert ProgressView("sample", "KSampler", 2, 4, 37.5, None) == view


def test_the_title_is_the_callers_where_there_is_one():
    """`_meta.title`, else the class, else the id."""
    meter = ProgressMeter(GRAPH, 0.0)

    assert feed(meter, (NodeStarted("load"), 0.0)).title == "Model"
    assert feed(meter, (NodeStarted("save"), 0.0)).title == "SaveImage"
    assert feed(meter, (NodeStarted("9"), 0.0)).title == "9"


def test_cached_nodes_and_all_behind_them_are_done():
    """What only a cached node draws on is not run either, though not listed as cached."""
    meter = ProgressMeter(GRAPH, 0.0)

    assert feed(meter, (NodesCached(("sample",)), 0.0)).overall_pct == 50.0


def test_a_fully_cached_run_is_not_done_before_success():
    """100 is said by success alone."""
    meter = ProgressMeter(GRAPH, 0.0)

    assert feed(meter, (NodesCached(tuple(GRAPH)), 0.0)).overall_pct == 99.0
    assert ProgressView(None, None, 0.0, 1.0, 100.0, 0.0) == feed(meter, (Succeeded(5), 1.0))


def test_nodes_that_no_output_draws_on_do_not_count():
    """A loader left over in the graph does not hold the share down."""
    graph = {**GRAPH, "left_over": {"class_type": "Loader", "inputs": {}}}

    loose = ProgressMeter(graph, 0.0)
    assert feed(loose, (NodesCached(("load",)), 0.0)).overall_pct == 20.0
    meter = ProgressMeter(graph, 0.0, output_nodes=["save", "absent"])
    assert feed(meter, (NodesCached(("load",)), 0.0)).overall_pct == 25.0


def test_the_share_never_falls():
    """Steps that begin anew and nodes that start twice leave it where it was."""
    meter = ProgressMeter(GRAPH, 0.0)
    events = [
        NodeStarted("load"),
        NodeStarted("sample"),
        NodeStarted("load"),
        NodeStarted("sample"),
        NodeProgress("sample", 4, 4),
        NodeProgress("sample", 1, 4),
        NodeProgress("sample", 9, 4),
        NodeProgress("sample", 1, 0),
        NodeOutput("save", {}),
        Preview(None, "image/png", b""),
    ]
    shares = [feed(meter, (event, now)).overall_pct for now, event in enumerate(events)]

    assert sorted(shares) == shares
    assert shares[-1] == 50.0


def test_the_time_left_follows_from_the_pace_of_the_steps():
    """The first step, which warms up, sets no pace; nodes to come cost the usual node's time."""
    meter = ProgressMeter(GRAPH, 0.0)
    feed(meter, (NodeStarted("load"), 0.0), (NodeStarted("sample"), 2.0))

    assert feed(meter, (NodeProgress("sample", 1, 5), 12.0)).eta_s is None
    assert feed(meter, (NodeProgress("sample", 2, 5), 13.0)).eta_s == 3.0 + 2 * 2.0
    assert meter.view(14.0).eta_s == 6.0
    assert meter.view(99.0).eta_s == 0.0
    assert feed(meter, (NodeStarted("decode"), 17.0)).eta_s == 3.0


def test_a_node_of_one_step_gives_no_time_left():
    """One step is no pace."""
    meter = ProgressMeter(GRAPH, 0.0)

    assert feed(meter, (NodeProgress("load", 1, 1), 1.0)).eta_s is None


def test_without_finished_nodes_only_the_steps_count_for_the_time_left():
    """A run that begins with its sampler still has an estimate."""
    meter = ProgressMeter(GRAPH, 0.0)
    feed(meter, (NodesCached(("load",)), 0.0), (NodeProgress("sample", 1, 3), 1.0))

    assert feed(meter, (NodeProgress("sample", 2, 3), 2.0)).eta_s == 1.0


@pytest.mark.parametrize(
    "end", [Failed("sample", "KSampler", "E", "no"), Interrupted(None, None), Gone()]
)
def test_an_end_without_success_keeps_the_share(end):
    """A failed run shows how far it came, and no time left."""
    meter = ProgressMeter(GRAPH, 0.0)
    feed(meter, (NodeStarted("load"), 0.0), (NodeProgress("sample", 1, 4), 1.0))
    feed(meter, (NodeProgress("sample", 2, 4), 2.0))

    assert ProgressView(None, None, 0.0, 1.0, 37.5, None) == feed(meter, (end, 3.0))


def test_an_odd_graph_is_no_matter():
    """Graphs come unchecked: missing inputs, links to nowhere, and rings."""
    ring = {"a": {"inputs": {"x": ["b", 0]}}, "b": {"inputs": {"x": ["a", 0]}}}

    assert feed(ProgressMeter({}, 0.0), (NodeStarted("1"), 0.0)).overall_pct == 0.0
    assert feed(ProgressMeter(ring, 0.0), (NodeStarted("a"), 0.0)).overall_pct == 0.0
    loose = {"a": {}, "b": {"inputs": {"x": ["zz", 0], "y": [["a"], 0]}, "_meta": "?"}}
    assert feed(ProgressMeter(loose, 0.0), (NodeStarted("b"), 0.0)).title == "b"


def test_a_recorded_run_goes_from_nothing_to_all():
    """A real sampler run: the share rises to 100, and an estimate appears while it samples."""
    transcript = json.loads((TRANSCRIPTS / "11_txt2img_sampler.json").read_text())
    submitted = transcript["http"][0]
    prompt_id = submitted["response_body"]["prompt_id"]
    graph = submitted["request_body"]["prompt"]
    execution, meter = Execution(prompt_id, graph), ProgressMeter(graph, 0.0)
    views = [
        meter.feed(event, entry["t"])
        for entry in transcript["ws"]
        if "text" in entry
        for event in execution.feed(parse(json.dumps(entry["text"])))
    ]

    shares = [view.overall_pct for view in views]
    assert sorted(shares) == shares
    assert shares[0] == 0.0
    assert shares[-1] == 100.0
    assert any(view.eta_s is not None and view.eta_s > 0 for view in views)
