"""Replays every recorded run, whole and with every kind of loss, into messages and execution."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from handler.engine import messages as m
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
from handler.engine.scripted import binary_frame

TRANSCRIPTS = Path(__file__).parents[2] / "recordings" / "transcripts"
ENDS = (Succeeded, Failed, Interrupted, Gone)
END_MESSAGES = {
    "execution_success": Succeeded,
    "execution_error": Failed,
    "execution_interrupted": Interrupted,
}


@dataclass
class Run:
    """One recorded run: its frames from submit to end, and what is true of it."""

    name: str
    prompt_id: str
    frames: list[Any] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    told: list[Any] = field(default_factory=list)
    end: type | None = None
    node_ids: set[str] = field(default_factory=set)

    def execution(self):
        return Execution(self.prompt_id, self.node_ids)

    def entry(self):
        """The history entry, as the engine builds it from the same facts."""
        return {
            "outputs": self.outputs,
            "status": {
                "status_str": "success" if self.end is Succeeded else "error",
                "messages": self.told,
            },
            "meta": {node: {"display_node": node} for node in self.outputs},
        }

    def note(self, frame, text):
        self.frames.append(parse(frame))
        data = text["data"] if text else {}
        if data.get("prompt_id") != self.prompt_id:
            return
        if isinstance(data.get("node"), str):
            self.node_ids.add(data["node"])
        if text["type"] == "executed":
            self.outputs[data["node"]] = data["output"]
        if text["type"].startswith("execution_"):
            self.told.append([text["type"], data])
        self.end = END_MESSAGES.get(text["type"], self.end)


def frame_of(entry):
    return binary_frame(entry["binary"]) if "binary" in entry else json.dumps(entry["text"])


def runs_of(transcript):
    """Cut each connection into runs, from an execution_start to its `executing` null."""
    open_runs: dict[str, Run] = {}
    for entry in transcript["ws"]:
        conn, text = entry.get("conn", "main"), entry.get("text")
        if text is None and "binary" not in entry:
            continue
        if text and text["type"] == "execution_start":
            prompt_id = text["data"]["prompt_id"]
            open_runs[conn] = Run(f"{transcript['scenario']}:{prompt_id}", prompt_id)
        run = open_runs.get(conn)
        if run is None:
            continue
        run.note(frame_of(entry), text)
        if text and text["type"] == "executing" and text["data"]["node"] is None:
            yield open_runs.pop(conn)
    yield from open_runs.values()


def load(name):
    return json.loads((TRANSCRIPTS / f"{name}.json").read_text())


FILES = sorted(TRANSCRIPTS.glob("*.json"))
RUNS = [run for path in FILES for run in runs_of(json.loads(path.read_text()))]
ENDED = [run for run in RUNS if run.end is not None]
CUT_OFF = [run for run in RUNS if run.end is None]

every_ended_run = pytest.mark.parametrize("run", ENDED, ids=lambda run: run.name)


def feed_all(execution, frames):
    return [event for frame in frames for event in execution.feed(frame)]


def check(run, events):
    """One end of the right type, last; each output once, before it."""
    assert [run.end] == [type(event) for event in events if isinstance(event, ENDS)]
    assert isinstance(events[-1], ENDS)
    told = [(event.node_id, event.output) for event in events if isinstance(event, NodeOutput)]
    assert sorted(run.outputs) == sorted(node for node, _ in told)
    assert run.outputs == dict(told)


def test_the_recordings_hold_every_kind_of_end():
    """The replays below would prove nothing without runs."""
    assert {Succeeded, Failed, Interrupted} == {run.end for run in ENDED}
    assert len(ENDED) > 50
    assert len(CUT_OFF) >= 3


@every_ended_run
def test_a_whole_run_ends_with_its_end_message(run):
    """On an unbroken socket no history is needed, nor the last `executing`."""
    execution = run.execution()
    events = []
    for frame in run.frames:
        ended_before = execution.ended
        events += execution.feed(frame)
        assert not execution.needs_history
        if execution.ended and not ended_before:
            assert type(frame).__name__.startswith("Execution")
        assert execution.running is not execution.ended

    check(run, events)
    assert isinstance(events[0], Started)
    assert isinstance(events[1], NodesCached)
    assert run.outputs == execution.outputs


@every_ended_run
def test_the_recorded_history_tells_the_same_as_the_socket(run):
    """A run known from history alone has the same outputs and the same end."""
    execution = run.execution()

    events = execution.feed_history(run.entry(), in_queue=None)

    check(run, events)
    live = feed_all(run.execution(), run.frames)
    assert live[-1] == events[-1]


@every_ended_run
def test_after_any_prefix_a_reconnect_and_history_complete_the_run(run):
    """Wherever the socket breaks, the snapshot gives what is missing and no more."""
    for length in range(len(run.frames)):
        execution = run.execution()
        events = feed_all(execution, run.frames[:length])
        execution.feed_reconnected()
        assert execution.needs_history is not execution.ended
        events += execution.feed_history(run.entry(), in_queue=False)
        events += execution.feed_history(run.entry(), in_queue=False)

        check(run, events)
        assert not execution.needs_history


@every_ended_run
def test_after_any_gap_the_run_is_settled_by_history(run):
    """Frames lost between two connections are asked for when the end is seen."""
    for length in range(len(run.frames)):
        for lost in (0, 1, 2, 5, 13, len(run.frames)):
            execution = run.execution()
            events = feed_all(execution, run.frames[:length])
            execution.feed_reconnected()
            events += execution.feed_history(None, in_queue=True)
            assert not execution.needs_history
            rest = run.frames[length + lost :]
            events += feed_all(execution, rest)
            assert execution.ended or execution.needs_history or not rest
            events += execution.feed_history(run.entry(), in_queue=False)

            check(run, events)


@every_ended_run
def test_without_any_single_message_there_is_one_end(run):
    """A message lost without a trace never ends a run twice, wrongly, or not at all."""
    for lost, frame in enumerate(run.frames):
        execution = run.execution()
        events = feed_all(execution, [*run.frames[:lost], *run.frames[lost + 1 :]])
        assert execution.ended or execution.needs_history
        events += execution.feed_history(run.entry(), in_queue=False)

        if isinstance(frame, m.Executed) and run.end is Succeeded:
            # TCP loses nothing in between, so this cannot be told from a node without output.
            assert [run.end] == [type(event) for event in events if isinstance(event, ENDS)]
        else:
            told = {event.node_id for event in events if isinstance(event, NodeOutput)}
            assert told <= set(run.outputs)
            assert [run.end] == [type(event) for event in events if isinstance(event, ENDS)]


@every_ended_run
def test_doubled_messages_change_nothing(run):
    """The same message twice gives its events once (previews carry no mark to tell them by)."""
    once = feed_all(run.execution(), run.frames)
    twice = feed_all(run.execution(), [frame for frame in run.frames for _ in range(2)])

    def without_previews(events):
        return [event for event in events if not isinstance(event, Preview)]

    assert without_previews(once) == without_previews(twice)


@every_ended_run
def test_messages_of_another_prompt_give_nothing(run):
    """Only the prompt id decides whom a message is for."""
    other = Execution("another", run.node_ids)

    assert feed_all(other, run.frames) == []
    assert not other.running
    assert not other.needs_history


@every_ended_run
def test_each_step_is_reported_once(run):
    """`progress` and `progress_state` tell the same steps; the caller hears each once."""
    events = feed_all(run.execution(), run.frames)
    steps = [event for event in events if isinstance(event, NodeProgress)]
    recorded = {
        (frame.node, frame.value, frame.max)
        for frame in run.frames
        if isinstance(frame, m.Progress)
    }

    assert len(steps) == len(set(steps))
    assert recorded <= {(step.node_id, step.value, step.max) for step in steps}


@pytest.mark.parametrize("run", CUT_OFF, ids=lambda run: run.name)
def test_a_run_that_the_engine_lost_is_gone(run):
    """After a crash neither queue nor history has the prompt."""
    execution = run.execution()
    feed_all(execution, run.frames)
    assert not execution.ended
    execution.feed_reconnected()

    assert [Gone()] == execution.feed_history(None, in_queue=False)
    assert execution.ended
    assert not execution.running


def test_a_late_history_is_asked_for_until_it_is_there():
    """Between the end message and the history entry lie some milliseconds."""
    run = next(run for run in ENDED if run.outputs and run.end is Succeeded)
    execution = run.execution()
    events = feed_all(execution, run.frames[:1])
    execution.feed_reconnected()
    execution.feed_history(None, in_queue=True)
    until = next(i for i, f in enumerate(run.frames) if isinstance(f, m.ExecutionSuccess))
    events += feed_all(execution, run.frames[1 : until + 1])

    assert execution.needs_history
    assert execution.feed_history(None, in_queue=True) == []
    assert execution.needs_history
    check(run, events + execution.feed_history(run.entry(), in_queue=False))


def test_a_snapshot_from_before_a_reconnect_leaves_the_doubt():
    """What a later break lost cannot be in a snapshot begun earlier."""
    execution = Execution("p", ["1"])
    execution.feed_reconnected()
    before = execution.reconnects
    execution.feed_reconnected()

    execution.feed_history(None, in_queue=True, reconnects_before=before)
    assert execution.needs_history
    execution.feed_history(None, in_queue=True, reconnects_before=execution.reconnects)
    assert not execution.needs_history


def test_an_unanswered_queue_settles_nothing():
    """No entry and no word from the queue is no proof of anything."""
    execution = Execution("p", ["1"])
    execution.feed_reconnected()

    assert execution.feed_history(None, in_queue=None) == []
    assert execution.needs_history


def test_a_run_that_starts_after_the_reconnect_needs_no_history():
    """A prompt that waited while the socket was down loses nothing."""
    run = ENDED[0]
    execution = run.execution()
    execution.feed_reconnected()

    check(run, feed_all(execution, run.frames))


def test_a_failure_seen_after_a_break_is_kept_when_history_has_nothing():
    """A known failure is not called gone because its entry was deleted."""
    run = next(run for run in ENDED if run.end is Failed)
    execution = run.execution()
    execution.feed_reconnected()
    feed_all(execution, run.frames[1:])

    assert [Failed] == [type(e) for e in execution.feed_history(None, in_queue=False)]


def test_a_success_without_its_outputs_is_gone():
    """A success whose outputs cannot be had is none."""
    run = next(run for run in ENDED if run.end is Succeeded)
    execution = run.execution()
    feed_all(execution, run.frames[1:])

    assert [Gone()] == execution.feed_history(None, in_queue=False)


def test_executing_without_prompt_id_is_left_to_history():
    """After a reconnect the engine names a node, but not whose."""
    transcript = load("17c_reconnect_during_run")
    second = [
        parse(json.dumps(e["text"]))
        for e in transcript["ws"]
        if e.get("conn") == "A2" and "text" in e
    ]
    prompt_id = "caa8a9fb-1852-44e4-80a5-e592c8c3a3be"
    execution = Execution(prompt_id, ["3"])
    execution.feed_reconnected()

    assert m.Executing("3", None, None) in second
    events = feed_all(execution, second)
    assert {NodeProgress} == {type(event) for event in events}
    assert execution.running
    assert execution.needs_history

    history = next(h for h in transcript["http"] if h["path"].endswith(prompt_id))
    events = execution.feed_history(history["response_body"][prompt_id], in_queue=False)
    assert [NodeOutput, Succeeded] == [type(event) for event in events]


def test_every_recorded_history_entry_gives_one_end():
    """Entries as the engine answers them, not only as rebuilt here."""
    ends = []
    for path in FILES:
        for answer in json.loads(path.read_text())["http"]:
            body = answer.get("response_body")
            if not answer["path"].startswith("/history") or not isinstance(body, dict):
                continue
            for prompt_id, entry in body.items():
                if not isinstance(entry, dict) or "status" not in entry:
                    continue
                events = Execution(prompt_id, []).feed_history(entry, in_queue=False)
                assert len(entry["outputs"]) + 1 == len(events)
                ends.append(type(events[-1]))

    assert {Succeeded, Failed, Interrupted} == set(ends)


def test_ids_of_expanded_nodes_are_given_as_their_visible_parent():
    """A caller knows the nodes of the graph, not what one of them expanded to."""
    execution = Execution("p", ["5", "12:5"])
    events = feed_all(
        execution,
        [
            m.ExecutionStart("p", 1),
            m.Executing("5.0.0.a", "5", "p"),
            m.Progress("p", "5.0.0.a", 1, 2),
            m.Executing("5.0.0.b", "5", "p"),
            m.Progress("p", "5.0.0.c", 1, 3),
            m.PreviewFrame("p", "5.0.0.c", None, "image/png", b"x"),
            m.Executed("p", "5.0.0.b", "5", {"images": []}),
            m.Executed("p", "5.0.0.c", "5", {"images": []}),
            m.Executing("12:5", "12:5", "p"),
            m.Executing("9.1", None, "p"),
            m.ExecutionError("p", "5.0.0.b", "X", "ValueError", "no\n\n", ()),
        ],
    )

    assert [
        Started(1),
        NodeStarted("5"),
        NodeProgress("5", 1, 2),
        NodeProgress("5", 1, 3),
        Preview("5", "image/png", b"x"),
        NodeOutput("5", {"images": []}),
        NodeOutput("5", {"images": []}),
        NodeStarted("12:5"),
        NodeStarted("9.1"),
        Failed("5", "X", "ValueError", "no"),
    ] == events


def test_the_history_names_the_visible_node_of_an_output():
    """`meta` of an entry maps expanded ids."""
    entry = {
        "outputs": {"5.0.0.b": {"text": ["x"]}, "6": {"text": []}, "7": None},
        "meta": {"5.0.0.b": {"display_node": "5"}, "6": {"display_node": 6}},
        "status": {"status_str": "success", "messages": []},
    }

    assert [
        NodeOutput("5", {"text": ["x"]}),
        NodeOutput("6", {"text": []}),
        Succeeded(0),
    ] == Execution("p", ["5"]).feed_history(entry, in_queue=False)


def test_previews_without_ids_belong_to_the_prompt_of_the_last_message():
    """The older frames name no prompt; one runs at a time."""
    legacy = m.PreviewFrame(None, None, None, "image/jpeg", b"x")
    mine, other = Execution("p", ["1"]), Execution("q", ["1"])
    for execution in (mine, other):
        feed_all(execution, [m.ExecutionStart("q", 1), m.ExecutionStart("p", 2)])

    assert [Preview(None, "image/jpeg", b"x")] == mine.feed(legacy)
    assert other.feed(legacy) == []
    mine.feed_reconnected()
    assert mine.feed(legacy) == []


def test_a_blocked_node_is_no_end():
    """A refusal handed on by a node is sent like an error, yet the run goes on."""
    execution = Execution("p", ["1"])
    blocked = m.ExecutionError("p", "1", "X", "ExecutionBlocked", "Execution Blocked: no", ())

    events = feed_all(execution, [m.ExecutionStart("p", 1), blocked, m.ExecutionSuccess("p", 2)])

    assert [Started(1), Succeeded(2)] == events


@pytest.mark.parametrize(
    ("status", "end"),
    [
        ({"status_str": "error"}, Failed),
        ({"status_str": "success"}, Succeeded),
        ({}, Succeeded),
        (None, Succeeded),
        ({"status_str": "success", "messages": [["execution_error", {"prompt_id": "p"}]]}, Failed),
        ({"messages": [None, [], ["x"], ["execution_error", None]]}, Succeeded),
    ],
)
def test_the_status_of_an_entry_decides_the_end(status, end):
    """The messages come first, then the word for the status; odd ones are passed over."""
    events = Execution("p", []).feed_history({"status": status}, in_queue=False)

    assert [end] == [type(event) for event in events]


def test_the_end_held_decides_where_an_entry_tells_none():
    """What the socket said of the end still counts."""
    execution = Execution("p", [])
    execution.feed(m.ExecutionInterrupted("p", None, None))

    assert [Interrupted(None, None)] == execution.feed_history({}, in_queue=False)


def test_nothing_follows_the_end():
    """Whatever comes after the end is ignored."""
    run = ENDED[0]
    execution = run.execution()
    feed_all(execution, run.frames)
    execution.feed_reconnected()

    assert feed_all(execution, run.frames) == []
    assert execution.feed_history(run.entry(), in_queue=False) == []
    assert not execution.needs_history


def test_the_state_is_told_in_the_repr():
    """A log line with an execution says where it stands."""
    execution = Execution("p", [])
    assert repr(execution) == "<Execution p waiting, 0 outputs>"
    execution.feed(m.ExecutionStart("p", 1))
    execution.feed_reconnected()
    assert repr(execution) == "<Execution p running, 0 outputs, needs history>"
    execution.feed_history({}, in_queue=False)
    assert repr(execution) == "<Execution p ended, 0 outputs>"
