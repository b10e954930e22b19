"""`presigned`: URLs that the caller made, each for one PUT."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import httpx

from handler.delivery.base import Stored, allowed
from handler.delivery.http_put import Body
from handler.delivery.strike import secrets_of
from handler.errors import InvalidPayload
from handler.transfer.http_line import origin

if TYPE_CHECKING:
    from handler.delivery.base import Progress, Upload
    from handler.delivery.http_put import HttpPut
    from handler.inputs.address import AddressPolicy
    from handler.targets import PresignedTarget


class PresignedUploader:
    """Sends the files to the URLs, in the order of the answer."""

    kind = "presigned"
    waits = True
    own_credentials = True

    def __init__(self, target: PresignedTarget, http: HttpPut, policy: AddressPolicy) -> None:
        self._target = target
        self._http = http
        self._policy = policy
        self.secrets = secrets_of(target)

    def location(self, key: str) -> str:  # noqa: ARG002 - the place is in the URL
        """Say whose URL it is; documented at the port."""
        return "the presigned URL"

    async def check(self) -> None:
        """Hold every host against the address policy; documented at the port."""
        places = {origin(httpx.URL(url))[1:] for url in self._target.all_urls}
        for host, port in sorted(places):
            await allowed(self._policy, host, port, "presigned")

    async def put(self, item: Upload, progress: Progress) -> Stored:
        """Send the file; documented at the port."""
        urls = self._target.all_urls
        if item.place >= len(urls):
            count = "is one presigned URL" if len(urls) == 1 else f"are {len(urls)} presigned URLs"
            raise InvalidPayload(
                f"there {count}, and this is output {item.place + 1}: {item.name}",
                location=f"{self.kind}.urls",
                hint="send `presigned.urls` with a URL for each output",
                details={"target": self.kind, "urls": len(urls), "filename": item.name},
            )
        url, headers = urls[item.place], self._headers(urls[item.place], item.content_type)
        reply = await self._http.send(
            "PUT", httpx.URL(url), headers, Body(item.path, item.size), progress
        )
        if reply.status in {401, 403}:
            raise reply.refusal(_why_refused(url, headers))
        if not reply.good:
            raise reply.refusal()
        where = urlsplit(url)._replace(query="", fragment="").geturl()
        where = where.replace(f"{urlsplit(url).netloc.rpartition('@')[0]}@", "", 1)
        return Stored(where, where, reply.headers.get("etag"))

    def _headers(self, url: str, content_type: str) -> dict[str, str]:
        wanted = self._target.content_type
        headers = {name: value.get_secret_value() for name, value in self._target.headers.items()}
        names = {name.lower() for name in headers}
        sent = content_type if wanted is None else wanted
        if sent and "content-type" not in names:
            headers["Content-Type"] = sent
        # Azure's PUT makes a blob of no kind by itself.
        if _is_azure_sas(url) and "x-ms-blob-type" not in names:
            headers["x-ms-blob-type"] = "BlockBlob"
        return headers

    async def close(self) -> None:
        """Nothing of its own is open; documented at the port."""


def _why_refused(url: str, headers: dict[str, str]) -> str:
    """Say what a refused signature may be about."""
    sent = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    told = f"`Content-Type: {sent}` was sent" if sent else "no Content-Type was sent"
    signed = parse_qs(urlsplit(url).query).get("X-Amz-SignedHeaders", [""])[0]
    named = f", and it is signed for these headers: {signed}" if signed else ""
    return (
        f"the URL has expired, or was signed for another content type or method: {told}{named}; "
        "presigned.content_type and presigned.headers set what is sent"
    )


def _is_azure_sas(url: str) -> bool:
    names = parse_qs(urlsplit(url).query).keys()
    return {"sv", "sig", "sp"} <= names
