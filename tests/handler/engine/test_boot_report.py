"""What a boot tells of itself."""

from __future__ import annotations

import pytest

from handler.engine.boot_report import findings, phases
from handler.engine.preflight import Preflight


def test_the_phases_add_up_to_the_total():
    """From our own start to the warmup's end."""
    told = phases(0.1234, begun=10.0, answering=12.0, learnt=12.5, ended=13.0)

    assert told == {
        "process_s": 0.123,
        "engine_answering_s": 2.0,
        "node_info_s": 0.5,
        "warmup_s": 0.5,
        "total_s": 3.123,
    }


def test_node_packs_are_found_in_the_log():
    """ComfyUI tells how long each took, and which failed."""
    log = [
        "Traceback (most recent call last):",
        "ImportError: no luck",
        "Cannot import /x/custom_nodes/bad_pack module for custom nodes: no luck",
        "Import times for custom nodes:",
        "   0.1 seconds: /x/custom_nodes/good_pack",
        "   2.5 seconds (IMPORT FAILED): /x/custom_nodes/bad_pack",
    ]
    found = findings(log, {"devices": [{"name": "cpu"}]}, Preflight(usable=True, torch="2.6"))

    assert found == {
        "custom_nodes_s": {"good_pack": 0.1, "bad_pack": 2.5},
        "custom_nodes_failed": [
            {
                "name": "bad_pack",
                "error": "ImportError: no luck",
                "hint": None,
                "traceback": ["Traceback (most recent call last):", "ImportError: no luck"],
            }
        ],
        "devices": ["cpu"],
        "torch": "2.6",
        "vram_mb": None,
    }


@pytest.mark.parametrize("stats", [{}, {"devices": None}])
def test_what_is_not_told_is_empty(stats):
    """No log, no devices, no GPU check."""
    found = findings((), stats, None)
    assert found == {
        "custom_nodes_s": {},
        "custom_nodes_failed": [],
        "devices": [],
        "torch": None,
        "vram_mb": None,
    }


def test_memory_is_none_where_no_gpu_can_be_used():
    """And not told where nobody asked."""
    card = Preflight(usable=True, gpu="a GPU", vram_mb=24564)

    assert findings((), {}, card)["vram_mb"] == 24564
    assert findings((), {}, Preflight(usable=False))["vram_mb"] == 0
