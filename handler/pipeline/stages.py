"""What each stage hands to the next. The types do not fit unless the order is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from handler.identity import Identity
from handler.instance_events import InstanceEvents
from handler.metrics import Metrics
from handler.records import CONVERTER_THREAD

if TYPE_CHECKING:
    from pathlib import Path

    from handler.engine.base import Engine
    from handler.engine.events import End
    from handler.graph.media_inputs import MediaInput
    from handler.graph.model_inputs import ModelInput
    from handler.job import Job
    from handler.models.library import ModelLibrary
    from handler.payload import PromptRequest
    from handler.pipeline.storage import UploadProviders
    from handler.pipeline.uploads import Uploads
    from handler.records import Graph, Output
    from handler.settings import Settings
    from handler.transfer.download import Downloader


# Encoding is the one stage that burns our own CPU; more at once would starve the engine.
CONVERTERS = 2


def _converters() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONVERTERS, thread_name_prefix=CONVERTER_THREAD)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the stages work with, wired in `build.py`.

    Attributes:
        media: fetches the media that callers name; held to the address policy.
        downloader: the same for models.
        operator: of URLs that the operator names, which may lead anywhere.
        models: brings models to where the engine lists them.
        scratch: folder for files of ours, removed with the server.
        providers: gives what uploads are made by.
        converters: the few threads that encode; all jobs share them.
        identity: who this worker is to callers.
        metrics: what is counted of the work.
        events: what is told to the operator; silent by default.
    """

    settings: Settings
    engine: Engine
    media: Downloader
    downloader: Downloader
    operator: Downloader
    models: ModelLibrary
    scratch: Path
    providers: UploadProviders = field(repr=False)
    converters: ThreadPoolExecutor = field(default_factory=_converters, repr=False)
    identity: Identity = field(default_factory=Identity)
    metrics: Metrics = field(default_factory=Metrics, repr=False)
    events: InstanceEvents = field(default_factory=InstanceEvents)


@dataclass(frozen=True, slots=True)
class Received:
    """A job as it came."""

    job: Job
    request: PromptRequest


@dataclass(frozen=True, slots=True)
class Validated:
    """A graph that the engine can run once its media are there.

    Attributes:
        media: inputs that take a file.
        models: inputs that name a model, to be fetched or there already.
    """

    request: PromptRequest
    graph: Graph
    media: list[MediaInput]
    models: list[ModelInput] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A graph ready for the engine: local names, outputs led into the job's own folder.

    Attributes:
        output_nodes: ids of nodes that save or show something.
        uploads: of a job that has targets: told of each node that has finished.
    """

    request: PromptRequest
    graph: Graph
    output_nodes: list[str]
    uploads: Uploads | None = None


@dataclass(slots=True)
class Ran:
    """What the run told.

    Attributes:
        told: node id -> the UI output the engine told of it.
        frames: images that nodes sent through the socket in place of a file.
        started_ms, ended_ms: Unix time in milliseconds by the engine's clock.
        node_ms: node id -> when it began.
        cached: ids of nodes that did not run.
        cold: it waited for the engine's boot, or was the first run after it.
        fault: what kept us from taking an event in.
    """

    graph: Graph
    output_nodes: list[str]
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    frames: list[tuple[str, Path]] = field(default_factory=list)
    started_ms: int | None = None
    ended_ms: int | None = None
    node_ms: dict[str, int] = field(default_factory=dict)
    cached: tuple[str, ...] = ()
    cold: bool = False
    end: End | None = None
    fault: Exception | None = None


@dataclass(frozen=True, slots=True)
class Collected:
    """Every output, read and described."""

    ran: Ran
    outputs: list[Output]
