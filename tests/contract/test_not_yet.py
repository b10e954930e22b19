"""comfyui-api's keys for delivery that this version does not have are refused, not dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from contract.graphs import fine, plain, refused

if TYPE_CHECKING:
    from live import LiveServer

KEYS: dict[str, Any] = {
    "webhook": "http://127.0.0.1:1/hook",
    "webhook_v2": "http://127.0.0.1:1/hook",
    "s3": {"bucket": "b", "prefix": "p/"},
    "azure_blob_upload": {"container": "c"},
    "hf_upload": {"repo": "owner/name"},
    "http_upload": {"url_prefix": "http://127.0.0.1:1/"},
}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_with_a_value_is_refused(strict_server: LiveServer, key: str) -> None:
    """A caller who asks for a delivery that will not happen is told at once."""
    body = refused(strict_server.prompt(plain(), **{key: KEYS[key]}), 400, "invalid_payload")

    assert body["location"] == key
    assert key in body["error"]
    assert body["hint"]
    assert (body["blame"], body["retryable"]) == ("caller", False)


def test_all_keys_are_named(strict_server: LiveServer) -> None:
    """Several such keys are told together."""
    body = refused(strict_server.prompt(plain(), **KEYS), 400, "invalid_payload")

    assert all(key in body["error"] for key in KEYS)


def test_an_empty_upload_object_is_refused_too(strict_server: LiveServer) -> None:
    """An object without keys asks for a delivery as well: it is not taken for nothing."""
    refused(strict_server.prompt(plain(), hf_upload={}), 400, "invalid_payload")


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_is_null_is_none(strict_server: LiveServer, key: str) -> None:
    """Clients that send every key, empty ones as null, are served."""
    fine(strict_server.prompt(plain(), **{key: None}))


def test_a_wish_that_is_refused_starts_nothing(strict_server: LiveServer) -> None:
    """No job is made of a refused payload."""
    refused(strict_server.prompt(plain(), id="refused", s3={"bucket": "b"}), 400, "invalid_payload")

    assert strict_server.get("/jobs/refused").status_code == 404
