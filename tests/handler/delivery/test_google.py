"""Tokens of a service account."""

from __future__ import annotations

import json

import pytest
from sources.google import service_account, tokens

from handler.delivery.base import PutFailed
from handler.delivery.google import GoogleTokens


async def test_one_token_serves_all(threads, tmp_path):
    """While it is good; it is asked for with the right to write."""
    async with tokens("canary4711") as (url, asked):
        path = service_account(tmp_path, url)
        google = GoogleTokens(path, threads)

        assert await google.token() == await google.token() == "canary4711"

        assert len(asked) == 1
        assert "canary4711" not in repr(google)


async def test_no_token_is_told_with_what_to_look_at(threads, tmp_path, free_port):
    """A file that is no key; a host that is silent may speak the next time."""
    (tmp_path / "bad.json").write_text(json.dumps({}))
    with pytest.raises(PutFailed, match="GOOGLE_APPLICATION_CREDENTIALS") as caught:
        await GoogleTokens(tmp_path / "bad.json", threads).token()
    assert not caught.value.passing
    path = service_account(tmp_path, f"http://127.0.0.1:{free_port}/token")
    with pytest.raises(PutFailed, match="cannot be reached") as silent:
        await GoogleTokens(path, threads).token()
    assert silent.value.passing


async def test_an_account_that_is_refused_is_told(threads, tmp_path):
    """It may have been deleted."""
    async with tokens(None) as (url, _):
        google = GoogleTokens(service_account(tmp_path, url), threads)
        with pytest.raises(PutFailed, match="gives no token"):
            await google.token()
