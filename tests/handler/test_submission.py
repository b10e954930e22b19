"""How a payload came."""

from __future__ import annotations

import dataclasses

import pytest

from handler.submission import Submission


def test_a_plain_payload_is_waited_for():
    """Nothing is asked for that the caller did not ask for."""
    how = Submission()
    assert (how.adapter, how.key, how.traceparent) == ("http", None, "")
    assert not how.respond_async
    assert not how.waits
    assert how.inline_bytes == 0


def test_it_stays_as_it_came():
    """It goes through many hands."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Submission().adapter = "runpod"
