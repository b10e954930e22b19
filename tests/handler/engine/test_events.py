"""What a prompt tells: plain data."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from handler.engine.events import End, EngineEvent, Preview


@pytest.mark.parametrize("kind", get_args(EngineEvent), ids=lambda kind: kind.__name__)
def test_every_event_is_a_frozen_record(kind):
    """With a sentence that says what happened."""
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert kind.__doc__


def test_ends_are_events():
    """A run tells exactly one of them, last."""
    assert set(get_args(End)) < set(get_args(EngineEvent))


def test_a_preview_shows_no_bytes():
    """They would fill a log line."""
    assert "jpeg-bytes" not in repr(Preview("1", "image/jpeg", b"jpeg-bytes"))
