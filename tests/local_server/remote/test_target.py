"""What `--to` may say."""

from __future__ import annotations

import pytest

from handler.errors import InvalidPayload
from local_server.remote.target import (
    ModalTarget,
    RunpodTarget,
    SaladTarget,
    UrlTarget,
    parse_target,
)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("http://127.0.0.1:3000/", UrlTarget("http://127.0.0.1:3000")),
        ("https://a.salad.cloud/prompt", UrlTarget("https://a.salad.cloud")),
        ("http://[::1]:3000/base", UrlTarget("http://[::1]:3000/base")),
        ("runpod:abc123", RunpodTarget("abc123")),
        ("modal:comfyfn", ModalTarget("comfyfn", "Worker")),
        ("modal:comfyfn/Other", ModalTarget("comfyfn", "Other")),
        ("salad:acme/art/pictures", SaladTarget("acme", "art", "pictures")),
    ],
)
def test_every_form_is_read(text, target):
    """And is shown again in the form it came in."""
    assert parse_target(text) == target
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text",
    [
        *("", "abc", "runpod:", "runpod:a/b", "runpod:../x", "modal:", "modal:a/b/c"),
        *("salad:a/b", "salad:Acme/art/q", "salad:a/b/../c", "ftp://host", "http://", "http://h:0"),
        *("http://h/?key=hush-hush", "http://user:hush-hush@h/", "http://a b"),
    ],
)
def test_whatever_else_is_refused(text):
    """What may be a password is not repeated."""
    with pytest.raises(InvalidPayload) as caught:
        parse_target(text)
    assert caught.value.message.startswith("--to ")
    assert "hush" not in caught.value.message
