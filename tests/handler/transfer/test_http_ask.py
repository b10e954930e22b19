"""Requests, and what a redirect makes of them."""

from __future__ import annotations

import httpx
import pytest

from handler.errors import InputFailed
from handler.transfer.http_ask import Ask, basic

SECRET = {"Authorization": "Bearer canary4711"}


def asked(url="https://e.org/a"):
    return Ask(httpx.URL(url), SECRET, {"key": "canary4711"}, "e.org/a")


@pytest.mark.parametrize("location", ["/b", "https://e.org/b", "https://e.org:443/b"])
def test_credentials_stay_within_their_origin(location):
    """Header and parameter alike."""
    led = asked().led_to(location)
    assert led.headers == SECRET
    assert led.full_url().params["key"] == "canary4711"


@pytest.mark.parametrize(
    "location", ["https://www.e.org/b", "https://e.org:8443/b", "//evil.example/b"]
)
def test_credentials_do_not_go_elsewhere(location):
    """Another host, and another port of the same one."""
    led = asked().led_to(location)
    assert led.headers == {}
    assert "canary4711" not in str(led.full_url())


def test_a_redirect_may_bring_its_own_password():
    """It goes into the header, never into the request's line."""
    led = asked().led_to("https://me:pass@cdn.example/b")
    assert str(led.url) == "https://cdn.example/b"
    assert led.headers == basic(httpx.URL("https://me:pass@x/"))


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("http://e.org/b", "from https to http"),
        ("file:///etc/passwd", "redirected to file:"),
        ("https://e.org:x/", "malformed"),
    ],
)
def test_redirects_to_anything_else_are_refused(location, told):
    """The message has no secret in it."""
    with pytest.raises(InputFailed, match=told) as caught:
        asked().led_to(location)
    assert "canary4711" not in caught.value.message


def test_a_request_shows_no_secret():
    """Whoever logs it."""
    assert "canary4711" not in repr(asked())


def test_a_query_that_no_url_can_have_is_told():
    """It is the caller's, and secret."""
    ask = Ask(httpx.URL("https://e.org/a"), {}, {"key": "canary4711" * 20_000}, "e.org/a")
    with pytest.raises(InputFailed, match="no URL with the query") as caught:
        ask.full_url()
    assert "canary" not in str(caught.value.envelope())
