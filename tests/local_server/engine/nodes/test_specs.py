"""Inputs that many nodes share."""

from __future__ import annotations

from local_server.engine.nodes.specs import choices, fraction


def test_a_fraction_is_a_number_from_0_to_1_unless_told_otherwise():
    """Limits may be others."""
    assert fraction(0.5) == ["FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01}]
    assert fraction(1.0, max=10.0)[1]["max"] == 10.0


def test_choices_are_declared_in_the_newer_form():
    """As ComfyUI's own nodes of that kind are."""
    assert choices("a", "b") == ["COMBO", {"multiselect": False, "options": ["a", "b"]}]
