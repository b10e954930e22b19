"""Secrets out of texts that others wrote."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from pydantic import SecretStr

from handler.credentials import BasicAuth, BearerAuth
from handler.delivery.strike import secrets_of, struck
from handler.targets import Targets

SECRET = "canary+4711/secret"
SENT = quote(SECRET, safe="")


@pytest.mark.parametrize(
    "value",
    [
        SECRET,
        SecretStr(SECRET),
        BearerAuth(token=SECRET),
        [SecretStr(SECRET)],
        {"header": SecretStr(SECRET)},
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET};Endpoint=https://e.org",
        f"sv=2021&sig={SENT}",
        f"https://e.org/a?X-Amz-Signature={SENT}",
        f"https://user:{SENT}@e.org/",
        Targets.model_validate({"presigned": {"url": f"http://e.org/x?sig={SENT}"}}).presigned,
    ],
)
def test_a_secret_is_struck_in_whatever_it_was_kept(value):
    """Raw, and percent-encoded."""
    assert struck(f"you sent {SECRET}!", secrets_of(value)) == "you sent …!"
    assert struck(f"you sent {SENT}!", secrets_of(value)) == "you sent …!"


def test_what_a_header_says_is_struck():
    """User and password together are in no field."""
    auth = BasicAuth(username="user", password=SECRET)
    sent = auth.headers()["Authorization"]

    assert struck(f"Authorization: {sent}", secrets_of(auth)) == "Authorization: …"
    assert struck(sent.split()[1], secrets_of(auth)) == "…"


def test_plain_fields_are_no_secrets():
    """A bucket's name stays in the message."""
    target = Targets.model_validate(
        {"s3": {"bucket": "my-results", "prefix": "some/folder/"}, "volume": {"path": "/mnt/out"}}
    )

    assert struck("my-results some/folder/ /mnt/out", secrets_of(target)) == (
        "my-results some/folder/ /mnt/out"
    )


def test_a_text_is_one_line_and_not_too_long():
    """Whatever a server wrote."""
    assert struck("<a>\n  <b>\x00 c", ()) == "<a> <b> c"
    assert len(struck("x" * 100_000, ())) == 301
    assert struck("see http://u:p@e.org/?t=abc", ()) == "see http://…@e.org/?t=…"
