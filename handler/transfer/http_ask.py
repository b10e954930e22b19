"""Requests to be made, redirects followed, and the connections of one file's transfer."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

import httpx

from handler.credentials import BasicAuth
from handler.errors import InputFailed
from handler.inputs.redact import redacted
from handler.transfer.http_line import PORTS, origin

if TYPE_CHECKING:
    from email.message import Message

    from handler.transfer.http_line import Line, Origin
    from handler.transfer.http_source import HttpSource


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to make: where, and what shows the right to the file.

    Attributes:
        url: without user and password.
        headers: sent to the URL's origin only.
        query: set on URLs of that origin only.
        shown: how messages call the file; no secret in it.
    """

    url: httpx.URL = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    query: dict[str, str] = field(repr=False)
    shown: str

    def full_url(self) -> httpx.URL:
        """Give the URL with the parameters set.

        Raises:
            InputFailed: with them it is longer than a URL may be.
        """
        try:
            return self.url.copy_merge_params(self.query) if self.query else self.url
        except httpx.InvalidURL as fault:
            raise InputFailed(f"{self.shown}: no URL with the query of the credentials") from fault

    def led_to(self, location: str) -> Ask:
        """Give the request that a redirect asks for.

        Raises:
            InputFailed: it leads to no http(s) URL, or from https to http.
        """
        try:
            url = self.url.join(location)
            host = url.host  # raises for a name that no DNS can have
        except (httpx.InvalidURL, ValueError) as fault:
            raise InputFailed(f"{self.shown}: redirected to a malformed URL") from fault
        if url.scheme not in PORTS or not host:
            raise InputFailed(f"{self.shown}: redirected to {url.scheme}:")
        if self.url.scheme == "https" and url.scheme == "http":
            raise InputFailed(f"{self.shown}: redirected from https to http, {redacted(url)}")
        userinfo = basic(url)
        url = url.copy_with(username="", password="", fragment=None)
        if origin(url) == origin(self.url):
            return replace(self, url=url, headers={**self.headers, **userinfo})
        return Ask(url, userinfo, {}, self.shown)


@dataclass(slots=True)
class Trail:
    """Where a file was found, and connections that can be used again.

    Attributes:
        asked: the request that began.
        found: the one at the end of the redirects.
        owner: the source that has the policy for it.
        led: the headers of the redirects on the way, with the origin that each came from.
    """

    owner: HttpSource
    asked: Ask
    found: Ask
    led: list[tuple[Origin, Message]] = field(default_factory=list)
    _spare: list[Line] = field(default_factory=list)
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, line: Line) -> None:
        """Take a connection back; from any thread."""
        with self._lock:
            if not self._closed:
                self._spare.append(line)
                return
        line.close()

    def take(self, wanted: tuple[str, str, int]) -> Line | None:
        """Give a connection to an origin, if one is there."""
        with self._lock:
            for place, line in enumerate(self._spare):
                if line.origin == wanted:
                    return self._spare.pop(place)
        return None

    def close(self) -> None:
        """Close what is spare, now and later."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, []
        for line in spare:
            line.close()


def basic(url: httpx.URL) -> dict[str, str]:
    """Give the header for the user and password that a URL has in it."""
    if not url.userinfo:
        return {}
    return BasicAuth.model_validate(
        {"username": unquote(url.username), "password": unquote(url.password)}
    ).headers()
