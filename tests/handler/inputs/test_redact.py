"""URLs as they may be shown."""

from __future__ import annotations

import time

import pytest

from handler.inputs.redact import redacted, urls_redacted


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pw@h.example/x?sig=pw", "http://h.example/x?sig=..."),
        (" s3://me:pw@b/k y.png?a=pw ", "s3://b/k y.png?a=..."),
        ("https://h.example/@me/x.png", "https://h.example/@me/x.png"),
        ("https://h.example/x.png", "https://h.example/x.png"),
        ("no URL: a@b?c=d", "no URL: a@b?c=d"),
        (
            'see "http://me:pw@h/x?t=pw",\n(https://h/y?sig=pw) and http://h/z.',
            'see "http://h/x?t=...",\n(https://h/y?sig=... and http://h/z.',
        ),
        ("http://[bad?pw", "(a malformed URL)"),
    ],
)
def test_urls_in_a_text_are_without_their_secrets(text, shown):
    """Those that have one; all else stays, letter by letter."""
    assert urls_redacted(text) == shown


@pytest.mark.parametrize("text", ["a" * 1_000_000, "http://?" * 100_000, "a://" + "?a" * 400_000])
def test_long_texts_take_no_long_time(text):
    """It is done for every job, in the event loop."""
    begun = time.monotonic()
    urls_redacted(text + "\n")
    assert time.monotonic() - begun < 5
