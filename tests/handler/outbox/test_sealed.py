"""Secrets on disk."""

from __future__ import annotations

import pytest

from handler.outbox.sealed import Seal, Unsealable


def test_sealed_text_is_opened_again():
    """By another process with the same secret, too."""
    sealed = Seal("s3cret").close(b"canary", "letter-1")

    assert "canary" not in sealed
    assert Seal("s3cret").open(sealed, "letter-1") == b"canary"


def test_the_same_text_is_never_sealed_alike():
    """Who sees two files cannot tell that they hold the same."""
    seal = Seal("s3cret")

    assert seal.close(b"canary", "a") != seal.close(b"canary", "a")


@pytest.mark.parametrize(("secret", "about"), [("other", "a"), ("s3cret", "b")])
def test_other_secret_or_other_letter_opens_nothing(secret, about):
    """A sealed text cannot be moved to another letter."""
    sealed = Seal("s3cret").close(b"canary", "a")
    with pytest.raises(Unsealable):
        Seal(secret).open(sealed, about)


@pytest.mark.parametrize("text", ["", "AAAA", "no base64!"])
def test_what_is_no_sealed_text_opens_nothing(text):
    """One error for all of it."""
    with pytest.raises(Unsealable):
        Seal("s3cret").open(text, "a")


def test_neither_secret_is_shown():
    """Not by accident in a log."""
    assert repr(Seal("s3cret")) == "<Seal>"
