"""Which setting opens which host."""

from __future__ import annotations

import pytest

from handler.transfer.tokens import denied_hint, token_of


@pytest.mark.parametrize(
    ("host", "token"),
    [
        ("huggingface.co", "HF_TOKEN"),
        ("cdn-lfs.HF.co.", "HF_TOKEN"),
        ("civitai.com", "CIVITAI_API_TOKEN"),
        ("nothuggingface.co", None),
        ("huggingface.co.evil.example", None),
    ],
)
def test_a_host_is_known_by_its_name_and_those_below(host, token):
    """Whatever its case, and with the root's dot; no other one that looks like it."""
    assert token_of(host) == token


def test_the_hint_names_the_setting_or_the_request():
    """What to do, for a host that is known and one that is not."""
    assert "set HF_TOKEN" in denied_hint("huggingface.co")
    assert denied_hint("e.org").startswith("send credentials for e.org")


def test_a_header_that_was_withheld_is_named():
    """Unless the host has a token of its own."""
    assert "HTTP_AUTH_ALLOWED_ORIGINS" in denied_hint("e.org", header_withheld=True)
    assert "HTTP_AUTH" not in denied_hint("huggingface.co", header_withheld=True)
