"""The media of one job that lie elsewhere: each URL is fetched once, whichever nodes name it."""

from __future__ import annotations

import asyncio
import copy
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from handler.credentials import auth_for
from handler.errors import HandlerError, InputFailed
from handler.inputs.redact import redacted
from handler.media.sniff import EXTENSIONS, HEAD_BYTES, sniff
from handler.transfer.records import Wanted
from handler.transfer.threads import ended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from handler.credentials import Credential
    from handler.pipeline.stages import Parts

# One job may name hundreds of frames; more connections than this help nobody.
FETCHES_AT_ONCE = 8

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,40})://")
_SOURCES = frozenset({"http", "https", "s3", "gs", "file"})


class MediaFiles:
    """Fetches the media of one job.

    Args:
        credentials: the caller's, for the URLs they are meant for.
        operator: the graph is the operator's, whose URLs and paths may lead anywhere.
    """

    def __init__(
        self, parts: Parts, credentials: Sequence[Credential], *, operator: bool = False
    ) -> None:
        settings = parts.settings
        self._downloader = parts.operator if operator else parts.media
        self._allowed = (Path("/"),) if operator else settings.allow_paths
        # The operator's downloader has the limits of models, which are no media's.
        self._most, self._limit_s = settings.max_input_mb << 20, settings.fetch_timeout_s
        self._credentials = credentials
        self._gate = asyncio.Semaphore(FETCHES_AT_ONCE)
        self._fetches: dict[str, asyncio.Task[Path]] = {}

    def lies_elsewhere(self, value: str) -> bool:
        """Tell whether a text is a URL of a source, or a path below ALLOW_PATHS.

        Raises:
            InputFailed: it is a URL that no source takes.
        """
        found = _SCHEME.match(value)
        if found is None:
            return value.startswith("/") and self._may_be_named(value)
        if found[1].lower() in _SOURCES:
            return True
        raise InputFailed(
            f"{found[1]}:// is no source that files are fetched from",
            hint="use http(s)://, s3://, gs://, or a link of Hugging Face or Azure",
        )

    def _may_be_named(self, value: str) -> bool:
        """Tell whether a path, as written or with its links followed, is below ALLOW_PATHS."""
        if "\0" in value or not self._allowed:
            return False
        paths = (Path(os.path.normpath(value)), Path(os.path.realpath(value)))
        return any(path.is_relative_to(root) for path in paths for root in self._allowed)

    async def fetch(self, url: str, target: Path) -> Path:
        """Fetch what a URL or a path below ALLOW_PATHS names; once, whoever else asks for it.

        Args:
            target: the path without the extension, which is added as the content is.

        Raises:
            InputFailed, AccessDenied, UrlNotAllowed, DiskFull: as the downloader tells them.
        """
        task = self._fetches.get(url)
        if task is None:
            task = self._fetches[url] = asyncio.create_task(self._fetched(url, target))
        try:
            # Others may wait for the same, and are to learn of its own fault, not of this caller's.
            path = await asyncio.shield(task)
        except HandlerError as fault:
            raise _told(fault, url) from fault
        own = target.with_name(target.name + path.suffix)
        return path if path == own else _linked(path, own)

    async def _fetched(self, url: str, target: Path) -> Path:
        async with self._gate:
            wanted = Wanted(
                url,
                target,
                auth=auth_for(self._credentials, url),
                kind="file",
                max_bytes=self._most,
                total_s=self._limit_s,
            )
            await self._downloader.download(wanted)
        return named_by_content(target)[0]

    async def close(self) -> None:
        """End what is under way."""
        await ended(self._fetches.values())


def is_url(value: str) -> bool:
    """Tell whether a text begins as a URL does, whatever source it may be of."""
    return _SCHEME.match(value) is not None


def named_by_content(path: Path) -> tuple[Path, str | None]:
    """End a file's name as its content is; give its path and media type, None for an unknown."""
    with path.open("rb") as file:
        mime = sniff(file.read(HEAD_BYTES))
    suffix = EXTENSIONS.get(mime or "", "")
    return path.rename(path.with_name(path.stem + suffix)) if suffix else path, mime


def _linked(path: Path, target: Path) -> Path:
    """Give a file a second name, or a copy where the disk knows no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
    return target


def _told(fault: HandlerError, url: str) -> HandlerError:
    """Make the fault of one of those who wait: each adds its own place to it."""
    fault, shown = copy.copy(fault), redacted(url)
    if isinstance(fault, InputFailed) and "://" in shown:
        if fault.message.startswith(shown):
            fault.message = f"Failed to download {fault.message}"
        elif shown not in fault.message:
            fault.message = f"Failed to download {shown}: {fault.message}"
        fault.args = (fault.message,)
    return fault
