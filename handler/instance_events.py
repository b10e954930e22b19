"""What happens on this worker, told to its operator: ComfyUI's messages and files that come and go.

Only what is of a caller's job is told of prompts: not the warmup's, and of an attached ComfyUI not
those of others. What is told names no job's folder, and none of the caller's secrets.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.masking import masked
from handler.records import JOBS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from handler.engine.base import EnginePrompt
    from handler.job import Job
    from handler.outbox.system_events import SystemEvents

log = logging.getLogger("comfyfn.events")

# The last messages of a prompt come after its end is known; those of a run that was given up,
# when the engine is rid of it.
KEPT_S = 30.0
DRAIN_S = 2.0
WARMUP = "warmup-"
# An error tells its node's inputs, which may be whole pictures in base64.
ERROR_TEXT, ERROR_TEXTS, ERROR_ITEMS = 1000, 32_000, 100
OUTPUT_TEXT = 1 << 16
# A shorter one would take ordinary words out of a text; no key is that short.
SHORTEST_SECRET = 8


@dataclass(frozen=True, slots=True)
class _Prompt:
    """Whose a prompt is; `secrets` are what came with it for nodes that ask other services."""

    job_id: str
    uid: str
    secrets: tuple[str, ...] = field(repr=False)


class InstanceEvents:
    """Tells the operator; without anybody to tell, every method does nothing.

    All methods are called on the event loop, return at once and raise nothing.

    Args:
        system: who sends.
        ready: whether the engine takes jobs now; while it boots and warms up nothing is told of it.
        scratch: our own folder, with the jobs' by their uid.
        kept_s: how long a prompt is known after the end of its run.
    """

    def __init__(
        self,
        system: SystemEvents | None = None,
        *,
        ready: Callable[[], bool] = lambda: True,
        scratch: Path | None = None,
        kept_s: float = KEPT_S,
    ) -> None:
        self._system = system
        self._ready = ready
        self._scratch = scratch
        self._kept_s = kept_s
        self._prompts: dict[str, _Prompt] = {}
        # The prompt of somebody else, most likely the warmup's, whose last `status` is to come.
        self._foreign: str | None = None

    def __repr__(self) -> str:
        return f"<InstanceEvents {self._system} of {len(self._prompts)} prompts>"

    @property
    def on(self) -> bool:
        """Whether there is anybody to tell."""
        return self._system is not None

    @property
    def dropped(self) -> int:
        """How many events were given up so far."""
        return self._system.dropped if self._system is not None else 0

    def open(self) -> None:
        """Begin to send; what was told before is sent now."""
        if self._system is not None:
            self._system.open()

    async def close(self, timeout_s: float = DRAIN_S) -> None:
        """Send what waits, as far as there is time, and stop."""
        if self._system is not None:
            await self._system.close(timeout_s)

    # -- the engine -------------------------------------------------------------------------------

    def follow(self, run: asyncio.Task[Any], prompt: EnginePrompt, job: Job) -> None:
        """Take a prompt for a job's, until some time after its run has ended.

        Args:
            run: just made, so that nothing of the prompt can have come yet.
        """
        if self._system is None:
            return
        secrets = tuple(
            text
            for text in prompt.extra_data.values()
            if isinstance(text, str) and len(text) >= SHORTEST_SECRET
        )
        prompt_id, later = prompt.prompt_id, asyncio.get_running_loop().call_later
        self._prompts[prompt_id] = _Prompt(job.id, job.uid, secrets)
        forget = self._prompts.pop
        run.add_done_callback(lambda _: later(self._kept_s, forget, prompt_id, None))

    def take(self, message: Mapping[str, Any]) -> None:
        """Take one JSON message of ComfyUI's, as it came."""
        if self._system is None:
            return
        try:
            self._take(self._system, message)
        except Exception:  # the engine's messages are for others, too
            log.exception("a message of the engine cannot be told")

    def _take(self, system: SystemEvents, message: Mapping[str, Any]) -> None:
        name, data = message.get("type"), message.get("data")
        if not isinstance(data, dict):
            return
        prompt_id = data.get("prompt_id")
        known = self._prompts.get(prompt_id) if isinstance(prompt_id, str) else None
        self._note_foreign(name, data, known)
        if known is not None:
            system.tell_comfy({**message, "data": _cleaned(name, data, known)}, known.job_id)
        elif name == "status" and self._foreign is None and self._ready():
            system.tell_comfy(message, None)

    def _note_foreign(self, name: object, data: Mapping[str, Any], known: _Prompt | None) -> None:
        """Know whose `status` comes: a prompt's last one is between its end and `executing` null.

        The warmup's comes when the worker may be ready already.
        """
        if name == "execution_start":
            self._foreign = None if known else data.get("prompt_id")
            return
        over = name == "executing" and data.get("node") is None
        anew = name == "status" and "sid" in data  # a connection that nothing of the last comes by
        if over or anew:
            self._foreign = None

    # -- files ------------------------------------------------------------------------------------

    def downloaded(self, url: str, path: Path, size: int, duration_s: float) -> None:
        """Tell of a file that was fetched, for a job or to stay."""
        self._tell_file("file_downloaded", url, path, size, duration_s)

    def uploaded(self, location: str, path: Path, size: int, duration_s: float) -> None:
        """Tell of an output that was stored for a caller; `location` has no secret in it."""
        self._tell_file("file_uploaded", location, path, size, duration_s)

    def deleted(self, url: str, path: Path, size: int) -> None:
        """Tell of a model that was evicted; `url` is "" where it is not known."""
        self._tell_file("file_deleted", url or "unknown", path, size, None)

    def _tell_file(
        self, name: str, url: str, path: Path, size: int, duration_s: float | None
    ) -> None:
        if self._system is None:
            return
        try:
            shown = self._outside(path)
            if shown is not None:
                self._system.tell_file(
                    name, url=url, local_path=shown, size=size, duration_s=duration_s
                )
        except Exception:  # what became of the file does not hang on it
            log.exception("a file cannot be told of")

    def _outside(self, path: Path) -> str | None:
        """Give a path without its job's folder; None for a file of the warmup."""
        parts = list(path.parts)
        if JOBS_FOLDER in parts:
            place = parts.index(JOBS_FOLDER)
            uid, parts[place : place + 2] = parts[place + 1], []
        elif self._scratch is not None and path.is_relative_to(self._scratch):
            uid = parts.pop(len(self._scratch.parts))
        else:
            return str(path)
        return None if uid.startswith(WARMUP) else str(Path(*parts))


def _cleaned(name: object, data: Mapping[str, Any], prompt: _Prompt) -> Mapping[str, Any]:
    """Give a message's data as they may be told; only these two have texts of nodes in them."""
    if name == "executed":
        return {**data, "output": _output(data.get("output"), prompt)}
    if name == "execution_error":
        texts = _Texts(prompt)
        # The node's inputs last: they are the longest, and the first to be left out.
        ordered = sorted(data.items(), key=lambda item: item[0] == "current_inputs")
        told = {key: texts.bounded(value) for key, value in ordered}
        return {**told, "prompt_id": data.get("prompt_id")}
    return data


def _output(value: Any, prompt: _Prompt) -> Any:
    if isinstance(value, dict):
        return {key: _output(inner, prompt) for key, inner in value.items()}
    if isinstance(value, list):
        return [_output(inner, prompt) for inner in value]
    return _cut(_known_struck(value, prompt), OUTPUT_TEXT) if isinstance(value, str) else value


class _Texts:
    """Cuts an error to what is read of it, with nothing secret left."""

    def __init__(self, prompt: _Prompt) -> None:
        self._prompt = prompt
        self._left = ERROR_TEXTS

    def bounded(self, value: Any) -> Any:
        """Give a value of the message."""
        if isinstance(value, dict):
            return dict(self._items(value))
        if isinstance(value, list):
            return [self.bounded(inner) for inner in value[:ERROR_ITEMS]]
        return self._text(value) if isinstance(value, str) else value

    def _items(self, value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for _, (key, inner) in zip(range(ERROR_ITEMS), value.items(), strict=False):
            yield key, self.bounded(inner)

    def _text(self, text: str) -> str:
        if self._left <= 0:
            return "…"
        # Masked over more than is told: a password must not be cut off from the sign behind it.
        clean = masked(_known_struck(text, self._prompt)[: 2 * ERROR_TEXT])
        self._left -= len(clean)
        return _cut(clean, ERROR_TEXT)


def _known_struck(text: str, prompt: _Prompt) -> str:
    """Take the job's folder out of a text, and what its caller sent for other services."""
    if prompt.uid in text:
        folder = rf"(?:{JOBS_FOLDER}[/\\]+)?{re.escape(prompt.uid)}[/\\]*"
        text = re.sub(folder, "", text)
    for secret in prompt.secrets:
        text = text.replace(secret, "…")
    return text


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"
