"""Files on this machine or on a mounted disk, below folders that the operator allowed."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from handler.errors import InputFailed
from handler.transfer.base import Remote
from handler.transfer.http_line import passing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from handler.credentials import Auth
    from handler.transfer.threads import Threads

_BLOCK = 4 << 20


class LocalSource:
    """Takes `file:///path` URLs and absolute paths.

    A file is linked where it lies on the same disk as its target, else copied.

    Args:
        roots: folders that files may be taken from; none for no local files at all.
    """

    def __init__(self, roots: Iterable[Path], threads: Threads) -> None:
        self._roots = tuple(root.resolve() for root in roots)
        self._threads = threads

    async def stat(
        self,
        url: str,
        auth: Auth | None,  # noqa: ARG002 - a file here needs none
        start: int = 0,  # noqa: ARG002 - it is had whole
        end: int | None = None,  # noqa: ARG002
        *,
        parts: bool = True,  # noqa: ARG002
    ) -> Remote:
        """Find the file; documented at the port."""
        path = await self._threads.call(lambda: self._allowed(url))
        status = path.stat()
        return Remote(
            url=url,
            size=status.st_size,
            etag=f"{status.st_ino}-{status.st_mtime_ns}",
            ranges=False,
            filename_hint=path.name,
            host="this machine",
            handle=path,
        )

    async def admit(self, url: str) -> None:
        """Find the file; documented at the port."""
        await self._threads.call(lambda: self._allowed(url))

    async def release(self, remote: Remote) -> None:
        """Nothing is open between calls; documented at the port."""

    async def bring(self, remote: Remote, part: Path, tell: Callable[[int], None]) -> int:
        """Link or copy the file; documented at the port."""
        path = remote.handle
        assert isinstance(path, Path)
        await placed(path, part, tell, self._threads)
        return 0

    def _allowed(self, url: str) -> Path:
        """Give the file a URL means, links followed, when it lies below a root. Blocking."""
        parts = urlsplit(url)
        text = unquote(parts.path) if parts.scheme == "file" else url
        if not self._roots:
            raise InputFailed(
                "files of this machine may not be taken", hint="the operator sets ALLOW_PATHS"
            )
        if "\0" in text or not text.startswith("/") or parts.netloc not in {"", "localhost"}:
            raise InputFailed("not an absolute path of this machine")
        path = Path(text).resolve()
        # One answer for all that is outside: whether a file is there is nobody's business.
        if not any(path.is_relative_to(root) for root in self._roots):
            raise InputFailed(
                f"{path.name} lies outside the folders that files may be taken from",
                hint="the operator adds the folder to ALLOW_PATHS",
            )
        if not path.is_file():
            raise InputFailed(f"there is no file {path.name} in that folder")
        return path


async def placed(path: Path, part: Path, tell: Callable[[int], None], threads: Threads) -> None:
    """Make `part` the file at `path`: by a link, or by a copy across disks.

    Raises:
        OSError: the disk is full, or the file is gone.
    """
    try:
        os.link(path, part)
    except OSError:
        stop = threading.Event()
        await threads.finish(lambda: _copy(path, part, tell, stop), abort=stop.set)


def _copy(path: Path, part: Path, tell: Callable[[int], None], stop: threading.Event) -> None:
    """Copy a bit at a time, so that it can be stopped: within the kernel where it can. Blocking."""
    done, in_kernel = 0, True
    buffer = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as source, part.open("wb", buffering=0) as target:
        size = os.fstat(source.fileno()).st_size
        while not stop.is_set():
            count = 0
            if in_kernel:
                # Not across all disks; and some file systems say "no more" where they cannot.
                with contextlib.suppress(OSError):
                    count = os.copy_file_range(source.fileno(), target.fileno(), 16 << 20)
                in_kernel = bool(count)
            if not in_kernel:
                os.lseek(source.fileno(), done, os.SEEK_SET)
                count = os.pwrite(target.fileno(), buffer[: source.readinto(buffer)], done)
            if not count:
                break
            done += count
            tell(done)
    if not stop.is_set() and done != size:
        raise passing(f"{path.name} changed while it was copied")
