"""Webhooks as RunPod posts them, against a receiver."""

from __future__ import annotations

import pytest
from receiver import receiving

from adapters.runpod_api_hooks import Hooks
from handler.errors import InvalidPayload, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.outbox.sending import Sender


def hooks(allow="127.0.0.1"):
    return Hooks(Sender(AddressPolicy(allow)), again_s=0.01)


@pytest.mark.parametrize(
    ("replies", "posts"), [([200], 1), ([500, "slam", 200], 3), ([500], 3), ([404, 200], 2)]
)
async def test_a_post_is_tried_three_times_at_most(replies, posts):
    """Until the receiver says 2xx."""
    async with receiving() as receiver:
        receiver.replies["/hook"] = replies
        told = hooks()

        async def end():
            return receiver.url(), b'{"id":"a"}'

        told.tell("a", end)
        await receiver.got(posts)
        await told.close(5)

    assert [post.body for post in receiver.posts] == [b'{"id":"a"}'] * posts
    assert receiver.posts[0].headers["content-type"] == "application/json"


async def test_a_post_that_cannot_be_made_is_told_to_the_log(caplog):
    """Whatever the caller wrote, the server goes on."""
    told = hooks("")

    async def gone():
        raise OSError("no space")

    async def inside():
        return "http://127.0.0.1:9/", b"{}"

    told.tell("a", gone)
    told.tell("b", inside)
    await told.close(5)
    assert "job a: its webhook is not sent: no space" in caplog.text
    assert caplog.text.count("job b: its webhook: 127.0.0.1 does not lead") == 1


async def test_where_it_may_not_lead_is_told_at_once():
    """With the key that is at fault."""
    told = hooks("")
    with pytest.raises(UrlNotAllowed) as refused:
        await told.check("http://127.0.0.1/")
    with pytest.raises(InvalidPayload) as invalid:
        await told.check("ftp://x")
    await told.close()
    assert refused.value.location == invalid.value.location == "webhook"


async def test_a_close_waits_no_longer_than_it_is_told():
    """The rest is dropped."""
    async with receiving() as receiver:
        receiver.replies["/hook"] = ["hang"]
        told = hooks()

        async def end():
            return receiver.url(), b"{}"

        told.tell("a", end)
        await receiver.got(1)
        await told.close(0.01)
    assert "0 under way" in repr(told)
