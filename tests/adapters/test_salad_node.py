"""What makes a node unfit."""

from __future__ import annotations

import pytest

from adapters.salad_node import LineWatch, unfit
from handler.health import Health, HealthReport


def report(**facts):
    given = {"health": Health.READY, "reason": None, "started": True, "engine": {}}
    return HealthReport(**{**given, "waiting": 0, "running": 0, **facts})


def model(done, total=100_000_000, state="fetching"):
    return {"state": state, "bytes": done, "total": total}


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({}, None),
        ({"boot": {"error": {"error": "no ComfyUI is found", "details": None}}}, None),
        (
            {"boot": {"error": {"error": "no driver", "details": {"cause": "gpu_fault"}}}},
            "no driver",
        ),
        ({"gpu_faults": 1, "gpu_fault": "CUDA error"}, None),
        ({"gpu_faults": 2, "gpu_fault": "CUDA error"}, "2 engines in a row: CUDA error"),
        ({"boot": {"manifest": {"shortfalls": []}}}, None),
        (
            {"boot": {"manifest": {"shortfalls": ["24 GB of VRAM", "64 GB of RAM"]}}},
            "24 GB of VRAM; 64",
        ),
    ],
)
def test_the_reason_is_told(facts, told):
    """A broken GPU and too little memory; a fault of the image is as bad on every node."""
    reason = unfit(report(**facts))
    assert (reason is None) == (told is None)
    assert told is None or told in reason


def test_a_slow_line_is_seen_after_a_window():
    """Not before; then with its measure."""
    watch = LineWatch(80, 10)
    seen = [watch.see([model(second * 1_000_000)], 100.0 + second) for second in range(12)]
    assert seen[:10] == [None] * 10
    assert seen[10] == "slow downloads: 8.0 Mbit/s over 10 s, and at least 80 are wanted"
    assert "80 Mbit/s over 10 s" in repr(watch)


def test_a_fast_line_and_an_unwatched_one_are_fine():
    """What is wanted comes, or nothing is wanted."""
    for least, speed in ((80, 11_000_000), (0, 1)):
        watch = LineWatch(least, 5)
        assert not any(watch.see([model(s * speed, 10**12)], float(s)) for s in range(60))


def test_only_the_last_window_counts():
    """A line that became slow is slow, however fast it began."""
    watch = LineWatch(8, 5)
    told = [watch.see([model(min(s, 10) * 9_000_000, 10**9)], float(s)) for s in range(20)]
    assert told[:10] == [None] * 10
    assert any(told[10:])


def test_what_is_there_soon_is_waited_for():
    """A new node would begin with nothing."""
    watch = LineWatch(80, 5)
    rest = [watch.see([model(95_000_000 + s * 500_000)], float(s)) for s in range(9)]
    assert rest == [None] * 9


def test_pauses_between_downloads_do_not_count():
    """A file that is hashed, or that nobody has answered for yet, says nothing of the line."""
    watch = LineWatch(80, 5)
    for second in range(30):
        there = model(100_000_000, state="fetching")
        asked = model(0, None)
        assert watch.see([there, asked], float(second)) is None
