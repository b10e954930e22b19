"""What each stage hands to the next. The types do not fit unless the order is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from handler.errors import InternalFault
from handler.records import CONVERTER_THREAD

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from handler.delivery.providers import Providers
    from handler.engine.base import Engine
    from handler.engine.events import End
    from handler.graph.media_inputs import MediaInput
    from handler.graph.model_inputs import ModelInput
    from handler.job import Job
    from handler.models.library import ModelLibrary
    from handler.payload import PromptRequest
    from handler.records import Graph, Output
    from handler.settings import Settings
    from handler.transfer.download import Downloader


# Encoding is the one stage that burns our own CPU; more at once would starve the engine.
CONVERTERS = 2


def _converters() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONVERTERS, thread_name_prefix=CONVERTER_THREAD)


def _no_providers() -> Providers:
    raise InternalFault("no providers of uploads are wired here")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the stages work with, wired in `build.py`.

    Attributes:
        media: fetches the media that callers name; held to the address policy.
        downloader: the same for models.
        operator: of URLs that the operator names, which may lead anywhere.
        models: brings models to where the engine lists them.
        scratch: folder for files of ours, removed with the server.
        providers: gives what uploads are made by; loaded with the first request that has some.
        converters: the few threads that encode; all jobs share them.
    """

    settings: Settings
    engine: Engine
    media: Downloader
    downloader: Downloader
    operator: Downloader
    models: ModelLibrary
    scratch: Path
    converters: ThreadPoolExecutor = field(default_factory=_converters, repr=False)
    providers: Callable[[], Providers] = field(default=_no_providers, repr=False)


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
    """

    request: PromptRequest
    graph: Graph
    output_nodes: list[str]


@dataclass(slots=True)
class Ran:
    """What the run told.

    Attributes:
        told: node id -> the UI output the engine told of it.
        frames: images that nodes sent through the socket in place of a file.
        started_ms, ended_ms: Unix time in milliseconds by the engine's clock.
        node_ms: node id -> when it began.
        cached: ids of nodes that did not run.
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
    end: End | None = None
    fault: Exception | None = None


@dataclass(frozen=True, slots=True)
class Collected:
    """Every output, read and described."""

    ran: Ran
    outputs: list[Output]
