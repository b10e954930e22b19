"""Requests sent: statuses, redirects, credentials and connections used again."""

from __future__ import annotations

import httpx
import pytest

from handler.errors import InputFailed
from handler.inputs.address import AddressPolicy
from handler.transfer.base import AccessDenied
from handler.transfer.http_ask import Ask, Trail
from handler.transfer.http_send import Sender
from handler.transfer.http_source import HttpSource


@pytest.fixture
def send(threads):
    """Ask for a URL: `line, response, trail = await send(url)`."""
    policy = AddressPolicy("127.0.0.1")
    options = {"connect_timeout_s": 5, "idle_timeout_s": 5}
    sender = Sender(policy, threads, user_agent="tests", trust=None, **options)
    trails = []

    async def get(url, trail=None, **refused):
        ask = Ask(httpx.URL(url), {}, {}, "the file")
        trail = trail or Trail(HttpSource(policy, threads), ask, ask)
        trails.append(trail)
        line, response = await sender.get(trail, {}, **refused)
        response.read()
        trail.keep(line)
        return response, trail

    yield get
    for trail in trails:
        trail.close()


async def test_identity_is_asked_for(host, send):
    """Parts, lengths and hashes are those of the file itself."""
    await send(host.put("/m", b"x"))
    (request,) = host.requests
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"] == "tests"


async def test_the_end_of_redirects_is_kept_and_used_again(host, send):
    """The second request goes there at once, over the same connection."""
    host.put("/m", b"x")
    host.redirects["/old"] = "/m"
    _, trail = await send(host.url("/old"))
    await send(host.url("/old"), trail)
    assert [request.path for request in host.requests] == ["/old", "/m", "/m"]
    assert trail.found.url.path == "/m"


async def test_a_link_that_expired_is_asked_for_from_the_beginning(host, send):
    """What was found may have been valid for a while only."""
    host.put("/m", b"x")
    host.redirects["/old"] = "/m"
    _, trail = await send(host.url("/old"))
    del host.files["/m"]
    host.put("/n", b"y")
    host.redirects["/old"] = "/n"
    await send(host.url("/old"), trail)
    assert trail.found.url.path == "/n"


async def test_a_circle_of_redirects_ends(host, send):
    """With a fault and not never."""
    host.redirects["/a"] = "/a"
    with pytest.raises(InputFailed, match="more than 20 redirects"):
        await send(host.url("/a"))


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (401, AccessDenied, False),
        (403, AccessDenied, False),
        (404, InputFailed, False),
        (408, InputFailed, True),
        (429, InputFailed, True),
        (503, InputFailed, True),
    ],
)
async def test_statuses_are_final_or_passing(host, send, status, kind, retryable):
    """And a source may say when to come back."""
    url = host.put("/m", b"x", statuses=[(status, {"Retry-After": "7"})])
    with pytest.raises(InputFailed, match=f"the file: {status}") as caught:
        await send(url)
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable
    assert caught.value.retry_after_s == (7 if retryable else None)


async def test_a_status_may_be_the_callers_to_look_into(host, send):
    """416 tells a length, for one."""
    url = host.put("/m", b"x", statuses=[(416, {})])
    response, _ = await send(url, refused=frozenset({416}))
    assert response.status == 416
