"""What is sent and never shown."""

from __future__ import annotations

import pytest

from local_server.deploy.secret import (
    Secret,
    advises,
    revealed,
    scrubbed,
    secrets_in,
    shown,
    sounds_secret,
)

BODY = {"env": {"A": "a", "T": Secret("canary1")}, "list": [Secret("canary2"), 1]}


def test_only_one_function_gives_the_values():
    """Every other way to a text masks them."""
    assert revealed(BODY) == {"env": {"A": "a", "T": "canary1"}, "list": ["canary2", 1]}
    assert shown(BODY) == {"env": {"A": "a", "T": "***"}, "list": ["***", 1]}
    assert "canary" not in f"{BODY} {BODY!r} {Secret('canary3')}"
    assert secrets_in(BODY) == {"canary1", "canary2"}


def test_the_longer_of_two_secrets_is_blotted_out_first():
    """Else a rest of it would stay."""
    assert scrubbed("key abc-123 and abc", ["abc", "abc-123", ""]) == "key *** and ***"


@pytest.mark.parametrize(
    ("name", "telling"),
    [
        ("HF_TOKEN", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("COMFY_ORG_API_KEY", True),
        ("BUCKET_ACCESS_KEY_ID", True),
        ("WEBHOOK_SECRET", True),
        ("REGISTRY_PASSWORD", True),
        ("AZURE_STORAGE_CONNECTION_STRING", True),
        ("HTTP_AUTH_HEADER_VALUE", True),
        ("OUTPUT_STORAGE", True),
        ("SYSTEM_WEBHOOK_URL", True),
        ("AZURE_STORAGE_ACCOUNT", False),
        ("BUCKET_ENDPOINT_URL", False),
        ("LOG_LEVEL", False),
        ("KEYWORDS", False),
        ("MONKEY", False),
    ],
)
def test_names_tell_secrets(name, telling):
    """By whole words of them, and those of our settings that hold one whatever they are called."""
    assert sounds_secret(name) is telling
    assert advises(name) is telling


@pytest.mark.parametrize("name", ["MANIFEST_JSON", "WARMUP_PROMPT_JSON"])
def test_what_is_no_secret_as_a_rule_is_masked_without_advice(name):
    """A token may stand in one of its URLs."""
    assert (sounds_secret(name), advises(name)) == (True, False)
