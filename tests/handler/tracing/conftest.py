"""A collector of traces, for one test."""

from __future__ import annotations

import pytest
from collector import Collector


@pytest.fixture
def collector():
    """A collector that is there for one test."""
    made = Collector()
    yield made
    made.close()
