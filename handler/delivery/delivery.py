"""The uploads of one job: begun as outputs appear, tried again, and told as one result."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from handler.delivery.base import Committer, PutFailed, Upload, Uploaded, with_kept
from handler.delivery.names import content_type, key_of, numbered
from handler.delivery.strike import struck
from handler.errors import HandlerError, UploadFailed
from handler.transfer.threads import ended

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from handler.delivery.base import Stored, Uploader
    from handler.metrics import Metrics
    from handler.records import Output
    from handler.targets import Target

    OnStored = Callable[[str, Path, int, float], None]

T = TypeVar("T")
log = logging.getLogger("comfyfn.delivery")


@dataclass(frozen=True, slots=True)
class Limits:
    """How hard is tried.

    Attributes:
        tries: of each file at each target, the first one included.
        backoff_s: wait before the second try; it doubles up to `longest_backoff_s`.
        timeout_s: longest time of one try.
        grace_s, slowest: a try has so long, and a second more for so many bytes of its file: all
            jobs have the same few uploads at once, and a server may take a byte a second.
        per_job: uploads of one job at once.
    """

    tries: int = 4
    backoff_s: float = 1.0
    longest_backoff_s: float = 30.0
    timeout_s: float = 3600.0
    grace_s: float = 120.0
    slowest: float = 8192.0
    per_job: int = 4

    def longest_s(self, size: int) -> float:
        """Give the longest time of one try, in seconds; `size` in bytes."""
        return min(self.timeout_s, self.grace_s + size / self.slowest)


@dataclass(frozen=True, slots=True)
class Sent:
    """How far an upload is: `sent` of `size` bytes."""

    target: str
    filename: str
    sent: int
    size: int


@dataclass(slots=True)
class _Lane:
    """One target's part.

    Attributes:
        keys: what went where.
        tasks: what is under way or done; of a `Committer`, the staging.
    """

    target: Target
    uploader: Uploader
    keys: dict[str, Output] = field(default_factory=dict)
    items: dict[Output, Upload] = field(default_factory=dict)
    tasks: dict[Output, asyncio.Task[Uploaded]] = field(default_factory=dict)


class Delivery:
    """Brings the outputs of one job to every target of its request.

    Use it as a context: what is under way at the end is cancelled, clients are closed.

    Args:
        gate: bounds the uploads of all jobs together.
        on_progress: called in the loop's thread.
        on_stored: told of each file that is stored: its location, which has no secret in it, the
            file here, its bytes, and the seconds that it took. It raises nothing.
        kept_s: how long the outputs are kept for who is told that they are not stored; 0: they are
            not.
        metrics: counts each file at each target once, after its last try.
    """

    def __init__(
        self,
        uploaders: Sequence[tuple[Target, Uploader]],
        job_id: str,
        *,
        gate: asyncio.Semaphore,
        limits: Limits,
        on_progress: Callable[[Sent], None] | None = None,
        on_stored: OnStored | None = None,
        kept_s: int = 0,
        metrics: Metrics | None = None,
    ) -> None:
        self._lanes = [_Lane(target, uploader) for target, uploader in uploaders]
        self._job_id = job_id
        self._gate = gate
        self._own_gate = asyncio.Semaphore(limits.per_job)
        self._limits = limits
        self._on_progress = on_progress
        self._on_stored = on_stored
        self._kept_s = kept_s
        self._metrics = metrics

    def __repr__(self) -> str:
        lanes = ", ".join(f"{lane.uploader.kind} {len(lane.tasks)}" for lane in self._lanes)
        return f"<Delivery {self._job_id[:80]}: {lanes}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def submit(self, output: Output) -> None:
        """Begin to upload an output; it may be the first of many. Returns at once."""
        for lane in self._lanes:
            if not lane.uploader.waits:
                self._begin(lane, output, 0)

    async def finish(self, outputs: Sequence[Output]) -> list[tuple[Uploaded, ...]]:
        """Upload what was not submitted, and wait for all.

        Args:
            outputs: every one, in the order of the answer.

        Returns:
            Where each is, by target in the order of the request's; of a text that is no file: ().

        Raises:
            UploadFailed: at least one is not stored, told after all others have ended. `details`
                lists what failed and what was delivered.
            UrlNotAllowed: a target leads to a forbidden address by now.
            InvalidPayload: there are more outputs than the request has URLs for.
        """
        files = [output for output in outputs if output.path is not None]
        for lane in self._lanes:
            for place, output in enumerate(files):
                self._begin(lane, output, place)
        tasks = [self._end(lane, files) for lane in self._lanes]
        results = await asyncio.gather(*tasks)
        self._counted(results)
        self._raise(files, results)
        found = {output: parts for output, *parts in zip(files, *results, strict=True)}
        return [tuple(_good(found[output])) if output in found else () for output in outputs]

    async def close(self) -> None:
        """End what is under way and close the clients."""
        await ended(task for lane in self._lanes for task in lane.tasks.values())
        for lane in self._lanes:
            await lane.uploader.close()

    def _begin(self, lane: _Lane, output: Output, place: int) -> None:
        if output.path is None or output in lane.tasks:
            return
        item = self._item(lane, output, place)
        lane.items[output] = item
        lane.tasks[output] = asyncio.create_task(self._store(lane, item))

    def _item(self, lane: _Lane, output: Output, place: int) -> Upload:
        """Name an output at a target; nothing of this job is stored over."""
        assert output.path is not None
        wanted = key = key_of(lane.target, output, self._job_id)
        count = 1
        while key in lane.keys:
            count += 1
            key = numbered(wanted, count)
        lane.keys[key] = output
        return Upload(
            path=output.path,
            name=output.filename,
            content_type=content_type(output.filename, output.mime),
            size=output.bytes,
            sha256=output.sha256,
            key=key,
            place=place,
        )

    async def _store(self, lane: _Lane, item: Upload) -> Uploaded:
        """Upload or stage a file, in as many tries as it may take."""
        uploader, progress = lane.uploader, self._progress(lane, item)
        clock, began = time.monotonic(), _now_ms()
        if isinstance(uploader, Committer):
            await self._tried(lane, item, lambda: uploader.stage(item, progress), item.size)
            return Uploaded(uploader.kind, "", "", item.size, time.monotonic() - clock, None, began)
        stored = await self._tried(lane, item, lambda: uploader.put(item, progress), item.size)
        return self._told_stored(lane, item, _uploaded(lane, item, stored, clock, began))

    def _told_stored(self, lane: _Lane, item: Upload, done: Uploaded) -> Uploaded:
        location = struck(done.location, lane.uploader.secrets)
        log.info("stored %s: %d bytes in %.2f s", location, done.bytes, done.seconds)
        if self._on_stored is not None:
            self._on_stored(location, item.path, done.bytes, done.seconds)
        return done

    async def _end(self, lane: _Lane, files: Sequence[Output]) -> list[Uploaded | BaseException]:
        """Wait for a lane's uploads, and make its commit if it has one."""
        tasks = [lane.tasks[output] for output in files]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        uploader, items = lane.uploader, [lane.items[output] for output in files]
        if not isinstance(uploader, Committer) or not items:
            return results
        if any(isinstance(result, BaseException) for result in results):
            return results
        clock = time.monotonic()
        try:
            size = sum(item.size for item in items)
            stored = await self._tried(lane, items[0], lambda: uploader.commit(items), size)
        except HandlerError as fault:
            return [fault for _ in items]
        spent = time.monotonic() - clock
        return [
            self._told_stored(
                lane,
                item,
                replace(
                    _uploaded(lane, item, one, clock, staged.started_ms),
                    seconds=staged.seconds + spent,
                ),
            )
            for item, one, staged in zip(items, stored, _good(results), strict=True)
        ]

    async def _tried(
        self, lane: _Lane, item: Upload, work: Callable[[], Awaitable[T]], size: int
    ) -> T:
        limits, limit_s = self._limits, self._limits.longest_s(size)
        for count in range(1, limits.tries + 1):
            try:
                async with self._own_gate, self._gate, asyncio.timeout(limit_s):
                    return await work()
            except TimeoutError:
                late = f"not done within {limit_s:.4g} s"
                fault = PutFailed(late, passing=True)
            except PutFailed as failed:
                fault = failed
            if not fault.passing or count == limits.tries:
                raise _told(lane, item, fault, count) from fault
            wait = self._wait(count, fault.retry_after_s)
            log.warning(
                "%s: try %d to store %s failed, the next one is in %.1f s: %s",
                *(lane.uploader.kind, count, item.name, wait),
                struck(fault.why, lane.uploader.secrets),
            )
            await asyncio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _wait(self, count: int, asked_s: float | None) -> float:
        wait = asked_s or self._limits.backoff_s * 2 ** (count - 1)
        longest = self._limits.longest_backoff_s
        return min(wait, longest) * random.uniform(0.75, 1.25)  # noqa: S311 - no secret

    def _progress(self, lane: _Lane, item: Upload) -> Callable[[int], None]:
        loop, told = asyncio.get_running_loop(), self._on_progress

        def tell(sent: int) -> None:
            if told is not None:
                with contextlib.suppress(RuntimeError):  # the loop is gone, the thread is not
                    loop.call_soon_threadsafe(
                        told, Sent(lane.uploader.kind, item.name, sent, item.size)
                    )

        return tell

    def _counted(self, results: Sequence[Sequence[Uploaded | BaseException]]) -> None:
        if self._metrics is None:
            return
        for lane, row in zip(self._lanes, results, strict=True):
            for one in row:
                stored, kind = isinstance(one, Uploaded), lane.uploader.kind
                count, seconds = (one.bytes, one.seconds) if isinstance(one, Uploaded) else (0, 0.0)
                self._metrics.upload_ended(kind, stored=stored, count=count, seconds=seconds)

    def _raise(
        self, files: Sequence[Output], results: Sequence[Sequence[Uploaded | BaseException]]
    ) -> None:
        """Raise the first fault, with all others and what was delivered in its details."""
        faults = [one for lane in results for one in lane if isinstance(one, BaseException)]
        if not faults:
            return
        # First those that another run would meet again.
        first = min(faults, key=_hope)
        if isinstance(first, HandlerError):
            first.hint = with_kept(first.hint, self._job_id, self._kept_s)
        if not isinstance(first, UploadFailed):
            raise first
        delivered = [
            {
                "target": one.target,
                "filename": output.filename,
                "location": struck(one.location, lane.uploader.secrets),
            }
            for lane, row in zip(self._lanes, results, strict=True)
            for output, one in zip(files, row, strict=True)
            if isinstance(one, Uploaded) and one.location
        ]
        failed = [one.details for one in faults if isinstance(one, UploadFailed) and one.details]
        merged = UploadFailed(
            first.message if len(faults) == 1 else f"{first.message} (and {len(faults) - 1} more)",
            location=first.location,
            hint=first.hint,
            blame=first.blame,
            retryable=first.retryable,
            details={"failed": failed, "delivered": delivered},
        )
        raise merged from first


def _uploaded(lane: _Lane, item: Upload, stored: Stored, clock: float, began: int) -> Uploaded:
    return Uploaded(
        target=lane.uploader.kind,
        url=stored.url,
        location=stored.location,
        bytes=item.size,
        seconds=time.monotonic() - clock,
        etag=stored.etag,
        started_ms=began,
        ended_ms=_now_ms(),
        expires_at=stored.expires_at,
    )


def _hope(fault: BaseException) -> int:
    return 1 + fault.retryable if isinstance(fault, UploadFailed) else 0


def _told(lane: _Lane, item: Upload, fault: PutFailed, tries: int) -> UploadFailed:
    """Make the job's error: it names the target and the file, in the provider's words."""
    uploader = lane.uploader
    location = struck(uploader.location(item.key), uploader.secrets)
    here = fault.whose == "worker"
    named = fault.whose == "place" or (uploader.own_credentials and not here)
    why = struck(fault.why, uploader.secrets)
    details: dict[str, Any] = {
        "target": uploader.kind,
        "filename": item.name,
        "location": location,
        "why": why,
        "status": fault.status,
        "provider_code": fault.code,
        "tries": tries,
    }
    return UploadFailed(
        f"{uploader.kind}: {item.name} is not stored at {location}: {why}",
        location=uploader.kind,
        hint=fault.hint,
        blame="caller" if named and not fault.passing else None,
        # Who tries again pays for another run: only where it could end another way.
        retryable=fault.passing or here,
        details=details,
    )


def _good(results: Sequence[Uploaded | BaseException]) -> list[Uploaded]:
    return [one for one in results if isinstance(one, Uploaded)]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
