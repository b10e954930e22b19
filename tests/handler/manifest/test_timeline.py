"""Records of steps, and their chart."""

from __future__ import annotations

import pytest

from handler.manifest.timeline import Record, Timeline, chart


def test_steps_are_noted_with_times_from_the_beginning():
    """Start and end are seconds since the timeline began."""
    times = iter([100.0, 101.0, 104.5, 105.0])
    told = []
    timeline = Timeline(lambda: next(times), told.append)
    number = timeline.begin("apt")
    timeline.end(number, "done", "all there")
    timeline.skip("pip", "after apt")

    assert timeline.records == (
        Record("apt", 1.0, 4.5, "done", "all there"),
        Record("pip", 5.0, 5.0, "skipped", "after apt"),
    )
    assert told == [Record("apt", 1.0), *timeline.records]
    assert timeline.records[0].seconds == 3.5


def test_a_step_done_elsewhere_is_noted_too():
    """The engine's boot stands in the same chart; an exception is a failure, and goes on."""
    timeline = Timeline()
    with timeline.step("boot"):
        assert timeline.records[0].outcome == "running"
    with pytest.raises(ValueError, match="no"), timeline.step("warmup"):
        raise ValueError("no\nmore")
    with pytest.raises(KeyboardInterrupt), timeline.step("wait"):
        raise KeyboardInterrupt

    assert [(r.name, r.outcome, r.note) for r in timeline.records] == [
        ("boot", "done", ""),
        ("warmup", "failed", "no"),
        ("wait", "cancelled", ""),
    ]


def test_the_chart_shows_what_ran_beside_what():
    """Bars stand under each other by time."""
    drawn = chart(
        [
            Record("apt", 0, 5, "done", "x"),
            Record("model", 0, 10, "failed"),
            Record("later", 5),
        ],
        now=10,
        width=10,
    )
    assert drawn.splitlines() == [
        "apt   |#####     |    0.0    5.0 s  done: x",
        "model |xxxxxxxxxx|    0.0   10.0 s  failed",
        "later |     .....|    5.0   10.0 s  running",
    ]
    assert chart([], 0) == "nothing to do"


def test_the_clock_begins_with_the_timeline():
    """Whoever shows a step that runs needs to know how late it is."""
    seconds = iter([10.0, 12.5])
    assert Timeline(clock=lambda: next(seconds)).now() == 2.5
