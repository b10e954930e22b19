"""What is counted of a worker's work, in plain structures: a job costs microseconds.

Everything is called from the event loop's thread. `handler.exposition` makes the text of
`/metrics` of it; nothing here knows how.
"""

from __future__ import annotations

import bisect
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from enum import Enum
    from pathlib import Path

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
"""Upper bounds of the buckets that times are counted in: a test graph's and a video's."""

OTHER = "other"
# Node packs bring thousands of classes, and each label value is kept by whoever scrapes.
MOST_CLASSES = 200
MOST_LABELS = 500

Labels = tuple[str, ...]


class Fault(Protocol):
    """What a job failed of: `handler.errors.HandlerError`."""

    @property
    def code(self) -> str:
        """Its name for programs."""


class Delivered(Protocol):
    """Something that a job produced: `handler.records.Output`."""

    @property
    def bytes(self) -> int:
        """Its size."""

    @property
    def path(self) -> Path | None:
        """Where its bytes lie; None for a text."""

    @property
    def url(self) -> str | None:
        """Where it was uploaded to; None where its bytes are the answer."""


class Ended(Protocol):
    """A job that has ended: `handler.job.Job`."""

    @property
    def phase(self) -> Enum:
        """`succeeded`, `failed` or `cancelled`."""

    @property
    def error(self) -> Fault | None:
        """Why it did not succeed."""

    @property
    def adapter(self) -> str:
        """Who took it."""

    @property
    def asynchronous(self) -> bool:
        """Whether nobody waited for its answer."""

    @property
    def stage_s(self) -> Mapping[str, float]:
        """Seconds of each phase that it went through."""

    @property
    def outputs(self) -> Sequence[Delivered]:
        """What it produced."""


class Tried(Protocol):
    """What came of a try to send a letter: `handler.outbox.records.Delivery`."""

    @property
    def outcome(self) -> str:
        """`delivered`, `again` or `dead`."""

    @property
    def seconds(self) -> float:
        """How long it took."""


class Counts:
    """Sums by label values.

    Attributes:
        values: label values -> sum. What comes when there are `most` of them is `other`.
    """

    def __init__(self, most: int = MOST_LABELS) -> None:
        self.values: dict[Labels, float] = {}
        self._most = most

    def __repr__(self) -> str:
        return f"<Counts {self.values}>"

    def add(self, *labels: str, amount: float = 1) -> None:
        """Add to one of them."""
        values = self.values
        if labels not in values and len(values) >= self._most:
            labels = (OTHER,) * len(labels)
        values[labels] = values.get(labels, 0) + amount


class Spread:
    """How often values came to lie between bounds.

    Attributes:
        counts: of each bucket alone, the one above all bounds last.
        total: the sum of all values.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def __repr__(self) -> str:
        return f"<Spread of {sum(self.counts)}, {self.total:g} s>"

    def add(self, seconds: float) -> None:
        """Take a value in."""
        self.counts[bisect.bisect_left(SECONDS, seconds)] += 1
        self.total += seconds


class Metrics:
    """The figures of one worker since its start.

    Attributes:
        jobs: by outcome, error code ("" for none) and adapter.
        job_s: seconds from arrival to end, by outcome.
        phase_s: seconds of each phase of a job, by phase.
        gpu_s: seconds that the engine worked on jobs.
        nodes, node_s: how often nodes ran and their seconds, by class.
        bytes_in: by kind of source: `inline`, or what a downloader calls its own.
        bytes_out: by target: `inline`, or the key of an upload.
        models: by `hit` (was in the store) and `miss`.
        uploads, upload_s: files by target and outcome, and their seconds by target.
        webhooks, webhook_s: tries by outcome, and their seconds.
        boots: how often the engine became ready.
        restarts: how often it ended, to be started again.
        peaks: name -> most bytes that were seen.
    """

    def __init__(self) -> None:
        self.jobs = Counts()
        self.job_s: dict[str, Spread] = {}
        self.phase_s: dict[str, Spread] = {}
        self.gpu_s = 0.0
        self.nodes = Counts(MOST_CLASSES)
        self.node_s = Counts(MOST_CLASSES)
        self.bytes_in = Counts()
        self.bytes_out = Counts()
        self.models = Counts()
        self.refusals = Counts()
        self.uploads = Counts()
        self.upload_s = Counts()
        self.webhooks = Counts()
        self.webhook_s = 0.0
        self.boots = 0
        self.restarts = 0
        self.peaks: dict[str, int] = {}
        self._ready_at = 0.0
        self._fresh = False

    def __repr__(self) -> str:
        return f"<Metrics of {sum(self.jobs.values.values()):g} jobs>"

    def job_ended(self, job: Ended) -> None:
        """Count a job, with its times and what its answer brings; once, at its end."""
        outcome = str(job.phase.value)
        self.jobs.add(outcome, job.error.code if job.error is not None else "", job.adapter)
        for phase, seconds in job.stage_s.items():
            _spread(self.phase_s, phase).add(seconds)
        _spread(self.job_s, outcome).add(sum(job.stage_s.values()))
        self.gpu_s += job.stage_s.get("running", 0.0)
        if not job.asynchronous:
            inline = [o.bytes for o in job.outputs if o.path is not None and o.url is None]
            self.bytes_out.add("inline", amount=sum(inline))

    def refused(self, code: str, adapter: str) -> None:
        """Count a payload that no job was made of."""
        self.refusals.add(code, adapter)

    def node_ended(self, class_type: str, seconds: float) -> None:
        """Count a node that ran."""
        self.nodes.add(class_type)
        self.node_s.add(class_type, amount=seconds)

    def took_in(self, source: str, count: int) -> None:
        """Count bytes of an input or a model."""
        self.bytes_in.add(source, amount=count)

    def model_had(self, *, fetched: bool) -> None:
        """Count a model that was asked for by URL or name."""
        self.models.add("miss" if fetched else "hit")

    def upload_ended(
        self, target: str, *, stored: bool, count: int = 0, seconds: float = 0.0
    ) -> None:
        """Count a file at a target, after its last try.

        Args:
            count: bytes that are stored.
        """
        self.uploads.add(target, "stored" if stored else "failed")
        self.upload_s.add(target, amount=seconds)
        self.bytes_out.add(target, amount=count)

    def webhook(self, delivery: Tried) -> None:
        """Count a try to deliver a webhook: the outbox's listener."""
        self.webhooks.add(delivery.outcome)
        self.webhook_s += delivery.seconds

    def engine_changed(self, state: str) -> None:
        """Count boots and restarts by the engine's states."""
        if state == "ready":
            self.boots += 1
            self._ready_at = time.time()
            self._fresh = True
        elif state == "restarting":
            self.restarts += 1
            self._fresh = False

    def run_begins(self, created_at: float) -> bool:
        """Tell whether a job is the first one after a boot, or waited for the boot.

        Args:
            created_at: epoch seconds of its arrival.
        """
        first, self._fresh = self._fresh, False
        return first or created_at < self._ready_at

    def peak(self, name: str, value: int) -> int:
        """Note a value, and give the highest one so far."""
        highest = self.peaks[name] = max(value, self.peaks.get(name, 0))
        return highest


def _spread(spreads: dict[str, Spread], name: str) -> Spread:
    found = spreads.get(name)
    if found is None:
        found = spreads[name] = Spread()
    return found
