"""Signatures that receivers' libraries take."""

from __future__ import annotations

import re
import time
from urllib.parse import unquote

import pytest
import standardwebhooks
import svix.webhooks
from receiver import SECRET
from standardwebhooks.webhooks import EmptyWebhookSecretError

from handler.outbox.signing import header_id, signature, signing_key, streamed_signature

BODY = '{"type":"prompt.complete","id":"ü"}'.encode()


@pytest.mark.parametrize("prefix", ["", "whsec_"])
@pytest.mark.parametrize("library", [svix.webhooks.Webhook, standardwebhooks.Webhook])
def test_libraries_of_receivers_take_the_signature(prefix, library):
    """The secret with and without its prefix."""
    secret = prefix + SECRET.removeprefix("whsec_")
    now = int(time.time())
    signed = signature(signing_key(secret), "a", now, BODY)
    headers = {"webhook-id": "a", "webhook-timestamp": str(now), "webhook-signature": signed}

    library(secret).verify(BODY, headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        library(secret).verify(BODY + b" ", headers)


def test_secrets_are_read_as_leniently_as_comfyui_api_does():
    """Padding may lack, both alphabets are known, and what is of neither is skipped."""
    assert signing_key("testsecret").hex() == "b5eb2db1e72b7a"
    assert signing_key("whsec_testsecret") == signing_key(" testsec ret== ")
    assert signing_key("-_-_") == signing_key("+/+/") == bytes.fromhex("fbffbf")
    assert signing_key("testA") == signing_key("test")


@pytest.mark.parametrize("secret", ["", "whsec_", "!!!", "A", "whsec_="])
def test_secret_without_a_key_gives_none(secret):
    """And nothing is signed with it: that would only look signed."""
    assert signing_key(secret) == b""
    with pytest.raises(EmptyWebhookSecretError):
        signature(signing_key(secret), "a", 1, b"{}")


def test_body_in_pieces_is_signed_alike():
    """A large one is never in memory as a whole."""
    key = signing_key(SECRET)
    whole = signature(key, "a", 17, BODY)

    assert streamed_signature(key, "a", 17, [BODY[:7], BODY[7:]]) == whole


def test_body_that_is_no_text_is_signed_too():
    """The library takes texts only; the rule is about bytes."""
    assert signature(b"k", "a", 17, b"\xff") == streamed_signature(b"k", "a", 17, [b"\xff"])


def test_id_beyond_ascii_is_written_in_ascii():
    """The receiver must sign the very same text."""
    assert header_id("job-1.a") == "job-1.a"
    assert header_id("jöb 1\r\n") == "j%C3%B6b%201%0D%0A"


@pytest.mark.parametrize("mark", ["a", "\n", "\x00", "ü", "漢", "😀", " ", "%", "\x7f", "\u2028"])
def test_any_id_is_a_header(mark):
    """Of 512 characters: visible ASCII, and no longer than receivers take."""
    written = header_id(mark * 512)

    assert re.fullmatch(r"[!-~]{512,6144}", written)
    assert unquote(written) == mark * 512
