"""Defaults of a deploy.yaml."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from local_server.deploy.schema import Deploy, Modal, Scaling


def test_a_name_is_enough_to_be_read():
    """Salad's defaults are those of its guide."""
    deploy = Deploy(name="sdxl")
    assert (deploy.salad.replicas, deploy.salad.probes.readiness) == (3, "/ready")
    assert (deploy.runpod.workers.max, deploy.runpod.type) == (3, "queue")


def test_a_plain_off_is_no_falsehood():
    """YAML reads `snapshot: off` as false."""
    assert Modal.model_validate({"snapshot": False}).snapshot == "off"


@pytest.mark.parametrize("given", [{}, {"queue_delay_s": 4, "requests": 1}])
def test_scaling_has_one_way(given):
    """Neither none nor both."""
    with pytest.raises(ValidationError):
        Scaling.model_validate(given)
