"""From a target to what speaks to it, with the credentials that are its own and nobody else's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from handler.errors import InvalidPayload
from local_server.remote.download import Fetch
from local_server.remote.http import HttpRemote
from local_server.remote.link import Link
from local_server.remote.modal import ModalRemote
from local_server.remote.runpod import RunpodRemote
from local_server.remote.salad import SaladRemote
from local_server.remote.target import ModalTarget, RunpodTarget, SaladTarget, UrlTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from handler.settings import Settings
    from local_server.remote.base import Remote
    from local_server.remote.target import Target

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def connect(
    target: Target, settings: Settings, headers: Sequence[str] = ()
) -> tuple[Remote, Fetch]:
    """Give what runs jobs at a target, and what fetches their outputs.

    Args:
        headers: `Name: value`, sent to a URL.

    Raises:
        InvalidPayload: a header is none, or a key is missing.
    """
    if headers and not isinstance(target, UrlTarget):
        raise InvalidPayload(f"--header is for a URL; {target} has its key from a variable")
    if isinstance(target, UrlTarget):
        given = read_headers(headers)
        own = {name.lower() for name in given}
        known = _known(target.url, settings)
        known = {name: value for name, value in known.items() if name.lower() not in own}
        link = Link(target.url, {**known, **given})
        return HttpRemote(link), Fetch(link)
    if isinstance(target, RunpodTarget):
        key = _key(settings.runpod_api_key, "RUNPOD_API_KEY", target)
        base = f"{settings.runpod_endpoint_url.rstrip('/')}/{target.endpoint}"
        return RunpodRemote(Link(base, {"Authorization": f"Bearer {key}"})), Fetch()
    if isinstance(target, SaladTarget):
        key = _key(settings.salad_api_key, "SALAD_API_KEY", target)
        return SaladRemote(Link(_queue(target, settings), {"Salad-Api-Key": key})), Fetch()
    return _modal(target), Fetch()


def _modal(target: ModalTarget) -> Remote:
    return ModalRemote(target)


def _queue(target: SaladTarget, settings: Settings) -> str:
    organization, project, queue = map(quote, (target.organization, target.project, target.queue))
    return (
        f"{settings.salad_api_url.rstrip('/')}/organizations/{organization}"
        f"/projects/{project}/queues/{queue}"
    )


def _key(key: str, variable: str, target: Target) -> str:
    if not key:
        raise InvalidPayload(f"{target} needs {variable}, which is not set")
    return key


def _known(url: str, settings: Settings) -> dict[str, str]:
    """Give the keys that are for a host: each platform's own for its hosts alone, and over TLS."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    headers: dict[str, str] = {}
    if settings.api_key:
        headers["Authorization"] = f"Bearer {settings.api_key}"
    if parts.scheme != "https":
        return headers
    if host.endswith(".salad.cloud") and settings.salad_api_key:
        headers["Salad-Api-Key"] = settings.salad_api_key
    if host.endswith(".api.runpod.ai") and settings.runpod_api_key:
        headers.setdefault("Authorization", f"Bearer {settings.runpod_api_key}")
    if host.endswith(".modal.run") and settings.modal_proxy_key and settings.modal_proxy_secret:
        headers["Modal-Key"] = settings.modal_proxy_key
        headers["Modal-Secret"] = settings.modal_proxy_secret
    return headers


def read_headers(lines: Sequence[str]) -> dict[str, str]:
    """Read `Name: value`.

    Raises:
        InvalidPayload: one is none; its value is not told.
    """
    headers = {}
    for place, line in enumerate(lines, 1):
        name, mark, value = line.partition(":")
        if not mark or not _NAME.fullmatch(name.strip()) or not _VALUE.fullmatch(value.strip()):
            raise InvalidPayload(f"--header no. {place}: write it as 'Name: value'")
        headers[name.strip()] = value.strip()
    return headers
