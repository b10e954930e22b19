"""Where state is, by STATE_URL and STATE_DIR, and the parts that work on it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from handler.errors import NotFound, StateUnavailable
from handler.state.admission import Admission
from handler.state.directory import DirectoryBlobs
from handler.state.event_log import EventLog, EventLogs
from handler.state.instances import Instance, Instances, take_instance
from handler.state.kept import Kept
from handler.state.recorder import Recorder
from handler.state.s3 import S3Blobs
from handler.state.store import StateStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.settings import Settings
    from handler.state.blobs import Blobs
    from handler.state.records import JobRecord


@dataclass(frozen=True, slots=True)
class State:
    """The parts, opened.

    Attributes:
        retention_s, outputs_s: JOB_RETENTION_S and OUTPUT_RETENTION_S.
        shared: whether other workers see the same records.
        abandoned: jobs that our last process left, failed now; their callers are to be told.
    """

    store: StateStore
    kept: Kept
    admission: Admission
    recorder: Recorder
    instance: Instance
    instances: Instances
    events: EventLogs
    retention_s: float
    outputs_s: float
    shared: bool
    abandoned: tuple[JobRecord, ...]

    def unknown(self, job_id: str) -> NotFound:
        """Make the answer to who asks for a job that is not known here."""
        if self.shared:
            hint = "it never came, or JOB_RETENTION_S is over"
        else:
            hint = (
                "another worker may have it: only with STATE_URL set do workers know each other's "
                "jobs; or it never came, or JOB_RETENTION_S is over"
            )
        details = {"instance": self.instance.name, "shared": self.shared}
        return NotFound(
            f"{self.instance.name} knows no job {job_id[:200]!r}", hint=hint, details=details
        )

    async def close(self) -> None:
        """Take our sign of life away, and let go of everything."""
        try:
            await self.recorder.drain()
            await self.admission.settle()
            await self.instances.close()
        finally:
            await self.events.close()
            self.store.close()
            self.instance.close()


async def open_state(settings: Settings, new_client: Callable[[], Any], now: float) -> State:
    """Open the state, and end the jobs that our last process left.

    Args:
        new_client: makes the operator's boto3 client for `s3://`; None where there are no keys.
        now: Unix seconds.

    Raises:
        StateUnavailable: the place is not there, or cannot be relied on.
    """
    folder = settings.state_folder
    blobs = blobs_of(settings.state_url, folder, new_client)
    try:
        instance = take_instance(folder / "instances", settings.instance_id)
    except OSError as error:
        raise StateUnavailable(
            f"state cannot be kept: {error.strerror}", hint=f"is STATE_DIR={folder} writable?"
        ) from error
    store = StateStore(blobs)
    try:
        await store.open()
        instances = Instances(store, instance.id)
        kept = Kept(store, settings.output_retention_s, settings.output_max_mb << 20)
        abandoned = await instances.open(now)
    except BaseException:
        store.close()
        instance.close()
        raise

    async def servable(record: JobRecord) -> bool:
        for one in record.outputs:
            if one.url is None and not (
                await kept.has(record.uid, one.name) if one.kept else one.whole
            ):
                return False
        return True

    return State(
        store=store,
        kept=kept,
        admission=Admission(store, instances.lost, servable),
        recorder=Recorder(store),
        instance=instance,
        instances=instances,
        events=EventLogs(EventLog(folder / "events")),
        retention_s=settings.job_retention_s,
        outputs_s=settings.output_retention_s,
        shared=bool(settings.state_url),
        abandoned=tuple(abandoned),
    )


def blobs_of(url: str, folder: Path, new_client: Callable[[], Any]) -> Blobs:
    """Choose where records and outputs are.

    Args:
        url: STATE_URL; "" for the folder.
        folder: STATE_DIR.

    Raises:
        StateUnavailable: a library is missing.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        if importlib.util.find_spec("boto3") is None:
            raise StateUnavailable(
                "STATE_URL=s3://… needs boto3",
                hint="pip install 'comfyfn[s3]'",
                retryable=False,
            )
        return S3Blobs(parts.netloc, unquote(parts.path), new_client)
    if parts.scheme == "file":
        return DirectoryBlobs(Path(unquote(parts.path)))
    return DirectoryBlobs(Path(url).expanduser().absolute() if url else folder / "jobs")
