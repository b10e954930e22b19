"""What each stage hands to the next."""

from __future__ import annotations

import dataclasses

import pytest
from worker import GRAPH, received

from handler.pipeline import stages
from handler.pipeline.stages import Ran

FROZEN = [stages.Parts, stages.Received, stages.Validated, stages.Prepared, stages.Collected]


@pytest.mark.parametrize("record", FROZEN)
def test_records_between_stages_are_frozen(record):
    """No stage edits another's work; only Ran is filled while the run tells."""
    assert record.__dataclass_params__.frozen


def test_a_run_that_has_told_nothing_is_empty():
    """Each has its own lists."""
    first, second = Ran(GRAPH, []), Ran(GRAPH, [])
    first.told["1"] = {}
    assert (second.told, second.frames, second.end) == ({}, [], None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        received().job = None
