"""Files over http(s), Civitai's among them: checked addresses, parts, credentials to their origin.

The other providers that speak HTTP use this, too: they turn their URLs into requests with a
signature or a token (`Ask`), and everything else is done here, once.
"""

from __future__ import annotations

import re
from dataclasses import replace
from email.message import Message
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import httpx

from handler.credentials import S3Auth, auth_for
from handler.errors import InputFailed
from handler.inputs.redact import redacted
from handler.transfer.base import PROBE_BYTES, Remote, SourceChanged
from handler.transfer.http_ask import Ask, Trail, basic
from handler.transfer.http_line import PORTS, LineBody, UnpackedBody
from handler.transfer.http_send import Sender

if TYPE_CHECKING:
    import http.client
    import ssl
    from collections.abc import Sequence

    from handler.credentials import Auth, Credential
    from handler.inputs.address import AddressPolicy
    from handler.transfer.base import Body
    from handler.transfer.threads import Threads

_UNPACKED = frozenset({"gzip", "x-gzip", "deflate"})
_PACKED_OTHERWISE = frozenset({"br", "zstd", "compress", "x-compress"})
_RANGE = re.compile(r"(?a)bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class HttpSource:
    """Fetches http(s) URLs.

    Args:
        policy: where URLs may lead.
        threads: for what blocks.
        defaults: credentials for URLs that come without.
        connect_timeout_s: longest wait for a connection to one address.
        idle_timeout_s: longest silence of the source.
        header_withheld: the operator set a header that most of these URLs do not get.
        trust: TLS trust; certifi's roots by default.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        threads: Threads,
        *,
        defaults: Sequence[Credential] = (),
        connect_timeout_s: float = 10.0,
        idle_timeout_s: float = 30.0,
        header_withheld: bool = False,
        user_agent: str = "comfyfn",
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._defaults = tuple(defaults)
        self._sender = Sender(
            policy,
            threads,
            connect_timeout_s=connect_timeout_s,
            idle_timeout_s=idle_timeout_s,
            header_withheld=header_withheld,
            user_agent=user_agent,
            trust=trust,
        )

    async def stat(
        self,
        url: str,
        auth: Auth | None,
        start: int = 0,
        end: int | None = None,
        *,
        parts: bool = True,
    ) -> Remote:
        """Ask for the file's beginning, or what follows `start`; documented at the port."""
        return await self.stat_ask(self.ask(url, auth), url, start, end, parts=parts)

    async def open(self, remote: Remote, start: int, end: int | None) -> Body:
        """Begin reading a part; documented at the port."""
        return await open_http(remote, start, end)

    async def admit(self, url: str) -> None:
        """Hold the URL's host against the policy; documented at the port."""
        await self._sender.admit(self._plain(url).url)

    async def release(self, remote: Remote) -> None:
        """Close the connections that a file's transfer left open; documented at the port."""
        release_http(remote)

    def ask(self, url: str, auth: Auth | None) -> Ask:
        """Make the request for a URL: the caller's auth, else the URL's own, else the defaults.

        Raises:
            InputFailed: it is no http(s) URL, or the auth is of a kind that HTTP has not.
        """
        if isinstance(auth, S3Auth):
            raise InputFailed(
                f"auth of type s3 is for s3:// URLs, not for {redacted(url)}",
                hint="use bearer, basic, header or query",
            )
        ask = self._plain(url)
        if auth is None and not ask.headers:
            auth = auth_for(self._defaults, str(ask.url))
        return ask if auth is None else replace(ask, headers=auth.headers(), query=auth.query())

    def _plain(self, url: str) -> Ask:
        """Make a request with no other credentials than those in the URL."""
        shown = redacted(url)
        try:
            parsed = httpx.URL(url)
            host = parsed.host  # raises for a name that no DNS can have
        except (httpx.InvalidURL, ValueError) as fault:
            raise InputFailed(f"not a valid URL: {shown}") from fault
        # httpx escapes what no host may have in it, and would ask DNS for that.
        if parsed.scheme not in PORTS or not host or "%" in host:
            raise InputFailed(f"not an http(s) URL: {shown}")
        plain = parsed.copy_with(username="", password="", fragment=None)
        return Ask(plain, basic(parsed), {}, shown)

    def ask_as(self, signed: str, url: str) -> Ask:
        """Make the request for a URL that is signed already, called by the one it stands for."""
        return replace(self._plain(signed), shown=redacted(url))

    async def stat_ask(
        self,
        ask: Ask,
        url: str,
        start: int = 0,
        end: int | None = None,
        *,
        parts: bool = True,
    ) -> Remote:
        """Do `stat` with a request made by another source."""
        trail = Trail(self, ask, ask)
        stop = start + PROBE_BYTES if end is None else min(end, start + PROBE_BYTES)
        wanted = {"Range": f"bytes={start}-{stop - 1}"} if parts else {}
        try:
            line, response = await self._sender.get(trail, wanted, refused=frozenset({416}))
            if response.status == 416:
                line.close()
                if start:
                    return await self.stat_ask(ask, url, 0)
                if response.getheader("content-range", "").strip() == "bytes */0":
                    return self._remote(trail, url, response, 0, ranges=True)
                return await self.stat_ask(ask, url, 0, parts=False)
        except BaseException:
            trail.close()
            raise
        packings = set(re.split(r"[ ,]+", response.getheader("content-encoding", "").lower()))
        body = LineBody(line, response, trail.keep)
        if packings & _PACKED_OTHERWISE:
            body.close()
            trail.close()
            raise InputFailed(
                f"{ask.shown}: the source packs the file, though it was asked not to",
                details={"content_encoding": ", ".join(sorted(packings & _PACKED_OTHERWISE))},
            )
        if packings & _UNPACKED:
            if response.status == 206:
                body.close()  # parts of what is packed cannot be unpacked
                return await self.stat_ask(ask, url, 0, parts=False)
            remote = self._remote(trail, url, response, None, ranges=False)
            return replace(remote, etag=None, first=UnpackedBody(body))
        return self._told(trail, url, response, body)

    async def part(self, trail: Trail, remote: Remote, start: int, end: int | None) -> Body:
        """Do `open` for a file that was found."""
        if (start, end) == (0, None):
            line, response = await self._sender.get(trail, {})
            return LineBody(line, response, trail.keep)
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        if remote.etag and not remote.etag.startswith("W/"):
            headers["If-Range"] = remote.etag
        # 416: it is shorter than it was.
        line, response = await self._sender.get(trail, headers, refused=frozenset({416}))
        if response.status != 206 or not _same(response, remote, start):
            line.close()
            raise SourceChanged(f"{trail.asked.shown} changed while it was fetched")
        return LineBody(line, response, trail.keep)

    def _told(
        self, trail: Trail, url: str, response: http.client.HTTPResponse, body: LineBody
    ) -> Remote:
        """Read what the head of an answer tells of the file."""
        part = _RANGE.fullmatch(response.getheader("content-range", "").strip())
        if response.status == 206 and part is not None and part[3] != "*":
            remote = self._remote(trail, url, response, int(part[3]), ranges=True)
            return replace(remote, first=body, first_start=int(part[1]), first_end=int(part[2]) + 1)
        if response.status == 206:
            body.close()
            raise InputFailed(f"{trail.asked.shown}: the source gives a part of unknown place")
        size = None if response.chunked else response.length
        remote = self._remote(trail, url, response, size, ranges=False)
        return replace(remote, first=body, first_end=size)

    def _remote(
        self,
        trail: Trail,
        url: str,
        response: http.client.HTTPResponse,
        size: int | None,
        *,
        ranges: bool,
    ) -> Remote:
        return Remote(
            url=url,
            size=size,
            etag=_version(response),
            ranges=ranges,
            filename_hint=_filename(response, trail.found.url),
            content_type=response.getheader("content-type", "").partition(";")[0].strip().lower(),
            host=trail.asked.url.host,
            handle=trail,
        )


async def open_http(remote: Remote, start: int, end: int | None) -> Body:
    """Begin reading a part of what an `HttpSource` found, for whichever provider."""
    trail = remote.handle
    assert isinstance(trail, Trail)
    return await trail.owner.part(trail, remote, start, end)


def release_http(remote: Remote) -> None:
    """Close the connections of what an `HttpSource` found."""
    if remote.first is not None:
        remote.first.close()
    if isinstance(remote.handle, Trail):
        remote.handle.close()


def _version(response: http.client.HTTPResponse) -> str | None:
    return response.getheader("etag") or response.getheader("last-modified")


def _same(response: http.client.HTTPResponse, remote: Remote, start: int) -> bool:
    """Tell whether an answer is the asked part of the file that `stat` saw."""
    part = _RANGE.fullmatch(response.getheader("content-range", "").strip())
    if part is None or int(part[1]) != start:
        return False
    size = None if part[3] == "*" else int(part[3])
    version = _version(response)
    return size in {None, remote.size} and (version is None or version == remote.etag)


def _filename(response: http.client.HTTPResponse, url: httpx.URL) -> str:
    """Take the name from Content-Disposition, else from the URL, without any folder."""
    message = Message()
    message["Content-Disposition"] = response.getheader("content-disposition", "")
    try:
        name = message.get_filename() or url.path
    except (ValueError, LookupError, TypeError):  # what the parser makes of a hostile one
        name = url.path
    leaf = PurePosixPath(name.replace("\\", "/")).name
    return "" if leaf == ".." else "".join(filter(str.isprintable, leaf))
