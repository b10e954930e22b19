"""One download: how far it is, and what came of it. Written by `Downloads` alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from handler.inputs.redact import redacted
from handler.models.download_request import echoed

if TYPE_CHECKING:
    import asyncio

    from handler.errors import HandlerError
    from handler.models.download_request import DownloadRequest
    from handler.transfer.records import Progress


@dataclass(slots=True, eq=False)
class Download:
    """A file on its way, or what came of it.

    Attributes:
        folder: as the caller called it.
        filename: as far as it is known: the source may give the name only with its answer.
        total: its bytes; None where the source does not tell.
        seconds: from asking to the end.
        listened: somebody waits for its end.
    """

    id: str
    request: DownloadRequest = field(repr=False)
    filename: str
    status: str = "started"
    done: int = 0
    total: int | None = None
    bytes_per_s: float = 0.0
    size: int | None = None
    seconds: float | None = None
    error: HandlerError | None = None
    finished_at: float | None = None
    cancel_asked: bool = False
    listened: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def tell(self, news: Progress) -> None:
        """Take in how far it is."""
        self.done, self.total, self.bytes_per_s = news.done, news.total, news.bytes_per_s

    def answer(self) -> dict[str, Any]:
        """Give what `POST /download` answers: comfyui-api's keys and the id."""
        told: dict[str, Any] = {
            "id": self.id,
            "url": echoed(self.request.url),
            "model_type": self.request.model_type,
            "filename": self.filename,
            "status": self.status,
        }
        if self.status == "completed":
            told |= {"size": self.size, "duration": self.seconds}
        return told

    def public(self) -> dict[str, Any]:
        """Give what `GET /downloads/{id}` answers."""
        return {
            "id": self.id,
            "url": redacted(self.request.url),
            "model_type": self.request.model_type,
            "filename": self.filename,
            "status": self.status,
            "done": self.done,
            "total": self.total,
            "bytes_per_s": round(self.bytes_per_s),
            "size": self.size,
            "duration": self.seconds,
            "error": self.error.envelope() if self.error else None,
        }
