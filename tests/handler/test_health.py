"""The worker's state as one word."""

from __future__ import annotations

import pytest

from handler.health import Health, HealthReport


@pytest.mark.parametrize("health", list(Health))
def test_ready_and_alive_follow_from_the_word(health):
    """Only READY takes jobs; only UNHEALTHY must be replaced."""
    report = HealthReport(health, None, started=True, engine={}, waiting=0, running=0)

    assert report.ready is (health is Health.READY)
    assert report.alive is (health is not Health.UNHEALTHY)
    assert report.boot == {}
