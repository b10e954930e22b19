"""`POST /download` and its like: files on their way into the model folders, and what came of them.

A download belongs to nobody: who asked may go away and look again later. What fails in the
background stays readable, as a job's record does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from handler.engine.base import EngineState
from handler.errors import (
    Draining,
    HandlerError,
    InputFailed,
    InternalFault,
    InvalidPayload,
    JobCancelled,
    NotFound,
    NotReady,
    QueueFull,
    UrlNotAllowed,
)
from handler.graph.file_kinds import is_model_name
from handler.models.download_record import Download
from handler.models.download_request import folder_called, last_segment, parse_download
from handler.models.names import check_filename
from handler.models.records import ModelSource

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from handler.engine.base import Engine
    from handler.engine.model_folders import ModelFolders
    from handler.models.download_request import DownloadRequest
    from handler.models.library import Added
    from handler.transfer.records import OnProgress

log = logging.getLogger("comfyfn.models")

AT_ONCE = 16
MOST_RECORDS = 1000
ENDING_S = 5.0


class Library(Protocol):
    """Who brings the files; `ModelLibrary` does."""

    async def add(
        self,
        source: ModelSource,
        folder: str,
        filename: str | None,
        owner: str,
        on_progress: OnProgress | None = None,
    ) -> Added:
        """Bring a file into a model folder."""
        ...

    def release(self, owner: str) -> None:
        """Forget that somebody needs what was brought for them."""
        ...


class Downloads:
    """Takes downloads, at most 16 on their way at once, and keeps what came of them.

    Args:
        ready: returns when the engine has told its folders; raises where it never will.
        admit: refuses a URL that must not or cannot be fetched, before anything is started.
        retention_s: how long the record of a finished one is kept.
    """

    def __init__(
        self,
        library: Library,
        engine: Engine,
        *,
        ready: Callable[[], Awaitable[None]],
        admit: Callable[[str], Awaitable[None]],
        retention_s: float,
        at_once: int = AT_ONCE,
        most: int = MOST_RECORDS,
    ) -> None:
        self._library = library
        self._engine = engine
        self._ready = ready
        self._admit = admit
        self._retention_s = retention_s
        self._most = most
        self._slots = asyncio.Semaphore(at_once)
        self._all: dict[str, Download] = {}
        self._draining = False

    def __repr__(self) -> str:
        return f"<Downloads {len(self._active())} of {len(self._all)} under way>"

    async def begin(self, raw: Any) -> Download:
        """Take a download and begin with it.

        Args:
            raw: the decoded JSON body.

        Raises:
            InvalidPayload: it does not fit the schema, the folder is unknown, or the name is none.
            UrlNotAllowed, InputFailed: the URL must not or cannot be fetched.
            QueueFull, Draining, NotReady: none is taken now.
        """
        if self._draining:
            raise Draining("this worker is on its way down", retry_after_s=1)
        request = parse_download(raw)
        name = _name_for(request)
        folders = await self._known_folders()
        if folders is None and self._engine.state in {EngineState.FAILED, EngineState.STOPPED}:
            await self._ready()  # it tells why
        if folders is not None:
            folder_called(request.model_type, folders)
        try:
            await self._admit(request.url)
        except HandlerError as fault:
            raise _told(fault) from fault
        self._make_room()
        download = Download(uuid.uuid4().hex, request, name or last_segment(request.url))
        self._all[download.id] = download
        owner = f"download-{download.id}"
        download.task = asyncio.create_task(self._run(download, owner, name), name=owner)
        # A task that is cancelled before its first step runs none of its code.
        download.task.add_done_callback(lambda _: self._cancelled(download))
        return download

    async def result(self, download: Download) -> Download:
        """Wait for the end. Who leaves does not end it.

        Raises:
            HandlerError: as it failed.
        """
        download.listened = True
        if download.task is not None:
            await asyncio.wait({download.task})
        if download.error is not None:
            raise download.error.detached()
        return download

    def find(self, download_id: str) -> Download:
        """Give one by its id.

        Raises:
            NotFound: none is known.
        """
        found = self._all.get(download_id)
        if found is None:
            raise NotFound(
                f"no download {download_id[:80]!r} is known here",
                hint="records are kept for JOB_RETENTION_S, in this worker's memory only",
            )
        return found

    def known(self) -> list[Download]:
        """List all that are known, newest first."""
        self._expire()
        return [*reversed(self._all.values())]

    async def cancel(self, download_id: str) -> Download:
        """End one; what is on disk stays for another try. One that has ended stays as it is.

        Raises:
            NotFound: none is known.
        """
        download = self.find(download_id)
        download.cancel_asked = True
        await _end([download])
        return download

    def refuse(self) -> None:
        """Take no more."""
        self._draining = True

    def awaited(self) -> set[asyncio.Task[None]]:
        """List the tasks of those that a caller waits for."""
        return {one.task for one in self._active() if one.listened and one.task is not None}

    async def close(self) -> None:
        """End all; what is on disk stays for another try."""
        self._draining = True
        await _end(self._active())

    # -- the work -------------------------------------------------------------------------------

    async def _run(self, download: Download, owner: str, filename: str | None) -> None:
        request, begun = download.request, time.monotonic()
        source = ModelSource(
            url=request.url,
            auth=request.auth,
            sha256=request.sha256 and request.sha256.lower(),
            size=request.size,
        )
        try:
            folder = await self._folder(request.model_type)
            async with self._slots:
                added = await self._library.add(source, folder, filename, owner, download.tell)
        except HandlerError as fault:
            self._fail(download, _told(fault))
        except Exception as fault:
            log.exception("download %s: a fault of ours", download.id)
            self._fail(download, InternalFault(f"internal fault: {type(fault).__name__}"))
        else:
            download.filename, download.size = added.filename, added.bytes
            download.done = download.total = added.bytes
            download.seconds = round(time.monotonic() - begun, 3)
            download.bytes_per_s, download.status = 0.0, "completed"
            download.finished_at = time.time()
            log.info(
                "download %s: %s/%s, %s bytes, %.1f s",
                download.id, folder, added.filename, added.bytes, download.seconds,
            )  # fmt: skip
        finally:
            self._library.release(owner)

    def _cancelled(self, download: Download) -> None:
        why = "the download was cancelled" if download.cancel_asked else "the server stops"
        kind = JobCancelled if download.cancel_asked else Draining
        self._fail(download, kind(why))

    def _fail(self, download: Download, error: HandlerError) -> None:
        if download.finished_at is None:
            download.error = error.detached()  # no frames: they hold the credentials
            download.bytes_per_s, download.status = 0.0, "failed"
            download.finished_at = time.time()
            log.warning("download %s: %s: %s", download.id, error.code, error.message)

    async def _known_folders(self) -> ModelFolders | None:
        try:
            return await self._engine.model_folders()
        except NotReady:
            return None

    async def _folder(self, called: str) -> str:
        folders = await self._known_folders()
        if folders is None:
            await self._ready()
            folders = await self._engine.model_folders()
        return folder_called(called, folders)

    # -- the records ----------------------------------------------------------------------------

    def _active(self) -> list[Download]:
        return [one for one in self._all.values() if one.finished_at is None]

    def _make_room(self) -> None:
        self._expire()
        if len(self._active()) >= self._most:
            raise QueueFull(f"{self._most} downloads wait already", hint="try again later")

    def _expire(self) -> None:
        horizon = time.time() - self._retention_s
        excess = len(self._all) - self._most + 1
        for one in [one for one in self._all.values() if one.finished_at is not None]:
            if excess > 0 or (one.finished_at or 0.0) < horizon:
                del self._all[one.id]
                excess -= 1


async def _end(downloads: list[Download]) -> None:
    tasks = {one.task for one in downloads if one.task is not None and not one.task.done()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=ENDING_S)


def _name_for(request: DownloadRequest) -> str | None:
    """Give the file's name: as asked for, else the URL's where it is one; None: the source's.

    Raises:
        InvalidPayload: what was asked for is no file name.
    """
    if request.filename is not None:
        try:
            return check_filename(request.filename)
        except InvalidPayload as fault:
            fault.location = "filename"
            raise
    name = last_segment(request.url)
    with contextlib.suppress(InvalidPayload):
        return check_filename(name) if is_model_name(name) else None
    return None


def _told(fault: HandlerError) -> HandlerError:
    """Give the fault as a caller is told it; clients of comfyui-api match its words."""
    told = fault.detached()
    told.location = told.location or ("filename" if told.status == HTTPStatus.CONFLICT else "url")
    if isinstance(fault, InputFailed) and not isinstance(fault, UrlNotAllowed):
        status = fault.details.get("status") if isinstance(fault.details, dict) else None
        shown, mark, reason = fault.message.partition(f": {status} ")
        what = f"{reason} ({status}, {shown})" if mark and reason else fault.message
        told.message = f"Error downloading file: {what}"
        told.args = (told.message,)
    return told
