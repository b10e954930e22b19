"""What the log says while an engine is waited for."""

from __future__ import annotations

import logging

import pytest
from live import free_port

from handler.engine.client import ComfyClient
from handler.engine.patience import Patience, patience_for, why_silent
from handler.errors import EngineDied, HandlerError


def test_a_line_comes_when_it_is_time(caplog):
    """At first, and then at an interval; not with every look."""
    patience = Patience("ComfyUI at http://h:1", 600.0, logging.WARNING, 2.0, 30.0)
    for waited_s in (0.1, 1.9, 2.1, 3.0, 32.0, 32.2, 40.0):
        patience.told(waited_s, EngineDied("nobody"))

    lines = [record.message for record in caplog.records]
    assert [line.split("; ")[1] for line in lines] == [
        "2 s so far (gives up after 600 s, BOOT_TIMEOUT_S)",
        "32 s so far (gives up after 600 s, BOOT_TIMEOUT_S)",
    ]
    assert lines[0].startswith("waiting for ComfyUI at http://h:1: nobody; ")


def test_an_engine_we_did_not_start_is_a_warning_and_sooner():
    """It may never come; one that we started only takes its time."""
    attached = patience_for("http://h", 600, started=False)
    started = patience_for("http://h", 600, started=True)
    assert (attached.level, started.level) == (logging.WARNING, logging.INFO)
    assert attached.next_s < 5 < started.next_s


async def test_a_closed_port_is_told_in_words():
    """As the kernel says it, without the client's own details."""
    client = ComfyClient(f"http://127.0.0.1:{free_port()}", client_id="me")
    try:
        with pytest.raises(HandlerError) as caught:
            await client.system_stats()
    finally:
        await client.close()
    assert why_silent(caught.value) == "connection refused"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "no answer"),
        (OSError(-2, "Name or service not known"), "name or service not known"),
        (EngineDied("gone"), "gone"),
    ],
)
def test_other_reasons_are_told_in_words(error, words):
    """A silence, a name nobody knows, and anything else as it is."""
    assert why_silent(error) == words
