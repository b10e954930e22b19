"""What runs of a kind have taken."""

from __future__ import annotations

import pytest
from worker import GRAPH

from handler.run_times import FRESH_S, KEPT, MOST_KINDS, Estimate, RunTimes, kind_of


def graph(**inputs):
    return {"1": {"class_type": "KSampler", "inputs": {"steps": 20, "seed": 1, **inputs}}}


def test_texts_and_seeds_make_no_other_kind():
    """Amounts do; ids and order of the nodes do not."""
    kind = kind_of(graph())
    assert kind == kind_of(graph(seed=2, text="a cat"))
    assert kind == kind_of({"99": graph()["1"]})
    assert kind != kind_of(graph(steps=40))
    assert kind != kind_of({**graph(), "2": GRAPH["2"]})
    assert kind_of(graph(steps=["5", 0])) == kind_of(
        {"1": {"class_type": "KSampler", "inputs": {}}}
    )


@pytest.mark.parametrize("given", [None, 5, [], {"1": 5}, {"1": {}}, {"1": {"inputs": 3}}])
def test_whatever_a_caller_sends_has_a_kind(given):
    """Its faults are told elsewhere."""
    assert kind_of(given)


def test_the_median_of_the_last_runs_counts():
    """One slow run is no reason to refuse the next."""
    times = RunTimes()
    assert times.of("a", 0) is None
    for seconds in (10, 12, 300):
        times.ran("a", seconds, 1.0)
    assert times.of("a", 2.0) == 12
    for _ in range(KEPT):
        times.ran("a", 50, 3.0)
    assert times.of("a", 4.0) == 50
    assert times.of("b", 4.0) is None
    assert times.typical(4.0) == 50


def test_a_run_that_was_cut_short_would_have_taken_longer():
    """Until one shows how long."""
    times = RunTimes()
    times.cut_short("a", 40, 1.0)
    times.cut_short("a", 80, 2.0)
    times.cut_short("a", 3, 3.0)
    assert times.of("a", 4.0) == 100
    times.ran("a", 110, 5.0)
    assert times.of("a", 6.0) == 110


def test_old_runs_are_forgotten():
    """Or a graph that is refused for them would be refused for ever."""
    times = RunTimes()
    times.ran("a", 200, 0.0)
    times.cut_short("b", 200, 0.0)
    assert times.of("a", FRESH_S - 1) == 200
    assert times.of("a", FRESH_S + 1) is None
    assert times.of("b", FRESH_S + 1) is None
    assert times.typical(FRESH_S + 1) is None


def test_the_memory_is_bounded():
    """The kind that ran longest ago goes."""
    times = RunTimes()
    for number in range(MOST_KINDS + 1):
        times.ran(str(number), 1, 0.0)
        times.cut_short(f"c{number}", 1, 0.0)
    assert times.of("0", 1) is None
    assert times.of("c0", 1) is None
    assert times.of(str(MOST_KINDS), 1) == 1
    assert str(MOST_KINDS) in repr(times)


def test_what_is_not_known_takes_no_time():
    """The benefit of the doubt."""
    assert Estimate().total_s == 0
    assert Estimate(None, 5).total_s == 5
    assert Estimate(10, 5).total_s == 15
