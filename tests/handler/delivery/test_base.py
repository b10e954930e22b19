"""The port of the uploaders and its refusals."""

from __future__ import annotations

import asyncio

import pytest

from handler.delivery.base import (
    Committer,
    PutFailed,
    Stored,
    Uploaded,
    allowed,
    need,
    not_configured,
)
from handler.delivery.hub import HubUploader
from handler.delivery.volume import VolumeUploader
from handler.errors import InvalidPayload, UploadFailed, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.targets import HfTarget, VolumeTarget


def test_a_library_that_is_missing_is_a_400_that_says_what_to_install():
    """Also where the package above it is missing."""
    need("json", "s3", "s3")
    for module in ("no_such_module_4711", "no_such_module_4711.inner"):
        with pytest.raises(InvalidPayload, match=f"^s3: needs {module}") as caught:
            need(module, "s3", "s3")
        assert "comfyfn[s3]" in (caught.value.hint or "")
        assert (caught.value.status, caught.value.location) == (400, "s3")


def test_what_is_not_set_up_is_told_with_what_to_set():
    """As a 400 at the target's key."""
    fault = not_configured("s3", "no region", "set AWS_REGION")

    assert (fault.message, fault.location, fault.hint) == ("s3: no region", "s3", "set AWS_REGION")


async def test_hosts_are_held_to_the_policy_and_told_where_they_stand():
    """A private one, one that is not there, and DNS that is silent."""

    async def resolver(host, port):
        if host == "slow.test":
            await asyncio.sleep(60)
        raise OSError("no such host")

    policy = AddressPolicy("", resolver, dns_timeout_s=0.01)
    with pytest.raises(UrlNotAllowed) as caught:
        await allowed(policy, "127.0.0.1", 80, "s3.endpoint")
    assert caught.value.location == "s3.endpoint"
    with pytest.raises(InvalidPayload, match="cannot be resolved"):
        await allowed(policy, "none.test", 80, "s3.endpoint")
    with pytest.raises(UploadFailed, match="DNS gave no answer"):
        await allowed(policy, "slow.test", 80, "s3.endpoint")
    assert await allowed(AddressPolicy("*"), "127.0.0.1", 80, "x") == ["127.0.0.1"]


def test_urls_that_may_be_links_are_in_no_text():
    """A presigned one lets anybody in."""
    stored = Stored("https://e.org/?sig=canary", "s3://b/k", "e")

    assert "canary" not in repr(stored)
    assert "canary" not in repr(Uploaded("s3", stored.url, stored.location, 1, 0.1))


def test_a_failed_try_says_whether_another_may_do():
    """With the provider's words."""
    fault = PutFailed("503 slow down", passing=True, status=503, retry_after_s=2)

    assert (str(fault), fault.passing, fault.status) == ("503 slow down", True, 503)


def test_those_that_commit_are_told_from_those_that_put(threads, tmp_path):
    """By what they can do."""
    hub = HubUploader(HfTarget.model_validate({"repo": "a/b"}), threads, token="t")
    volume = VolumeUploader(VolumeTarget.model_validate({"path": "/mnt"}), [], threads)

    assert isinstance(hub, Committer)
    assert not isinstance(volume, Committer)
