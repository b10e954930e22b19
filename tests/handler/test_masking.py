"""Texts as they may be shown: no credentials of anything like a URL."""

from __future__ import annotations

import time

import pytest

from handler.graph.faults import quoted, shown
from handler.masking import masked

SECRETS = [
    ("https://me:s3cret@host/a.png", "https://…@host/a.png"),
    ("https://s3cret@host/a.png", "https://…@host/a.png"),
    ("HTTPS://me:s3cret@host", "HTTPS://…@host"),
    ("s3://key:s3cret@bucket/a", "s3://…@bucket/a"),
    ("git+ssh://me:s3cret@host", "git+ssh://…@host"),
    ("http:/me:s3cret@host", "http:/…@host"),
    ("http:me:s3cret@host", "http:…@host"),
    ("http:\\\\me:s3cret@host", "http:\\\\…@host"),
    ("//me:s3cret@host/x", "//me:…@host/x"),
    ("https://me:s3@s3cret@host/a", "https://…@host/a"),
    ("see https://me:s3cret@host, ok", "see https://…@host, ok"),
    ("https://host/a?X-Amz-Signature=s3cret&b=s3cret", "https://host/a?X-Amz-Signature=…&b=…"),
    ("http:/host/a?sig=s3cret", "http:/host/a?sig=…"),
    ("host/a?sig=s3cret", "host/a?sig=…"),
    ("https://host/a?sig=s3cret=#token=s3cret", "https://host/a?sig=…#token=…"),
    ("https://me:s3cret@h/?a=s3cret https://h?b=s3cret", "https://…@h/?a=… https://h?b=…"),
]
HARMLESS = [
    "",
    "a photo of a cat, 4k",
    "write to me@example.com",
    "x = y",
    "C:\\models\\a.png",
    "folder/photo.png [output]",
    "https://host/a.png",
    "is it so? a=b",
]


@pytest.mark.parametrize(("text", "safe"), SECRETS)
def test_credentials_are_taken_out(text, safe):
    """Users, passwords, and the values of query and fragment; the rest stays to be recognised."""
    assert masked(text) == safe
    assert masked(safe) == safe


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay(text):
    """A prompt is shown as it was written."""
    assert masked(text) == text


@pytest.mark.parametrize(("text", "_safe"), SECRETS)
@pytest.mark.parametrize("wrap", [str, lambda t: [t], lambda t: {"url": t}, lambda t: [[t, 1]]])
def test_no_fault_shows_them(text, _safe, wrap):
    """Whatever the value is wrapped in, and wherever it is cut."""
    for said in (str(shown(wrap(text))), quoted(wrap(text))):
        assert "s3cret" not in said
        assert "cret" not in said


def test_no_text_of_a_fault_is_slow():
    """Faults show some hundred characters of a value, however it is made."""
    begun = time.monotonic()
    for text in ("a:" * 10**6 + " @", "/=" + "?" * 10**6, "a" * 10**6 + " @"):
        shown(text)
        shown([text])
    assert time.monotonic() - begun < 8
