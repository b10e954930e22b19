"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import asdict

from local_server.cli.findings import Finding


def test_a_finding_has_a_level_a_topic_and_a_text():
    """They are the keys of the JSON, too."""
    assert asdict(Finding("ok", "gpu", "a GPU")) == {"level": "ok", "topic": "gpu", "text": "a GPU"}
