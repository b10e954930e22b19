"""What the outbox takes and tells."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from handler.outbox.records import Letter, Opened, OutboxFull, Posted, Terms
from handler.settings import Settings


def test_terms_come_from_the_settings():
    """Each by its variable."""
    settings = Settings.from_env(
        {
            "WEBHOOK_TIMEOUT_S": "3",
            "WEBHOOK_MAX_AGE_S": "60",
            "PROMPT_WEBHOOK_RETRIES": "5",
            "OUTBOX_MAX": "7",
            "OUTBOX_MAX_MB": "2",
        }
    )
    terms = Terms.of(settings)

    assert (terms.timeout_s, terms.max_age_s, terms.retries) == (3, 60, 5)
    assert (terms.max_letters, terms.max_bytes) == (7, 2 << 20)
    assert Terms.of(Settings.from_env({})) == Terms()


def test_no_secret_is_shown(tmp_path):
    """Nor the URL, which may hold one."""
    letter = Letter(
        url="https://u:canary@e.org/canary?t=canary",
        body=b"canary",
        message_id="a",
        kind="x",
        secret=SecretStr("canary"),
        headers={"X": "canary"},
    )
    opened = Opened("https://canary", {"X": "canary"}, "canary", tmp_path, 0, 1)

    assert "canary" not in f"{letter!r} {opened!r}"


def test_full_outbox_is_the_platforms_fault():
    """Another time there may be room."""
    assert OutboxFull("x").envelope()["retryable"]


@pytest.mark.parametrize(
    ("signed", "message_id", "job_id"),
    [(True, "a-1", "a-1"), (False, "a-1-12", "a-1"), (False, "a-0", "a")],
)
def test_letter_knows_its_job(signed, message_id, job_id):
    """By what the receiver knows it by."""
    told = {"kind": "x", "order_key": "u", "to": "http://e.org", "bytes": 1}
    letter = Posted(id="1", message_id=message_id, signed=signed, created=1.0, since=1.0, **told)

    assert letter.job_id == job_id
