"""URLs as they may be shown."""

from __future__ import annotations

import pytest

from handler.inputs.redact import redacted


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/b.png", "https://a.example/b.png"),
        ("https://me:pass@a.example:8443/b", "https://a.example:8443/b"),
        ("https://a.example/b?token=s3cret&x=#frag", "https://a.example/b?token=...&x=..."),
        ("http://[::1]:80/", "http://[::1]:80/"),
        ("data:image/png;base64,AAAA", "data:..."),
        ("https://[bad/", "(a malformed URL)"),
    ],
)
def test_secrets_are_left_out(url, shown):
    """User, password, query values and fragment are gone; names of the query stay."""
    assert redacted(url) == shown


def test_a_long_url_is_cut():
    """A message stays readable."""
    assert len(redacted("https://a.example/" + "b" * 9000)) < 310
