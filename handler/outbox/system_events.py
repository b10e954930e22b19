"""Events of this instance, for its operator: in order, bounded, and gone with the process.

They tell what happens, not what came of a job: one that is lost does no harm, so none is kept on
disk. Whoever has something to tell never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from handler.inputs.redact import redacted
from handler.outbox.letter_file import to_of
from handler.outbox.records import Opened, Posted, Terms
from handler.outbox.verdict import judge
from handler.settings import COMFY_EVENTS, STORAGE_EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from handler.outbox.sending import Sender

log = logging.getLogger("comfyfn.outbox")

_COALESCED = frozenset({"progress", "progress_state", "status"})
_RETRIES = 3
EVENT_TERMS = Terms(
    timeout_s=10.0, retries=_RETRIES, max_age_s=60.0, longest_wait_s=10.0, refusal_wait_s=1.0
)


@dataclass(frozen=True, slots=True)
class _Event:
    name: str
    key: tuple[Any, ...] | None
    body: bytes


class SystemEvents:
    """Sends events to one URL, one at a time.

    Args:
        url: the operator's; "" for none, and then nothing is done at all.
        names: of the events that are wanted, as in SYSTEM_WEBHOOK_EVENTS.
        metadata: sent with each.
        sender: closed with this.
        terms: how patient to be with one event before it is dropped.
        most: events that wait; over it the oldest is dropped.
        most_bytes: of them together.
    """

    def __init__(
        self,
        url: str,
        names: Iterable[str],
        sender: Sender,
        *,
        metadata: Mapping[str, str] | None = None,
        terms: Terms = EVENT_TERMS,
        most: int = 1000,
        most_bytes: int = 16 << 20,
    ) -> None:
        self._url = url
        self._names = frozenset(names) if url else frozenset()
        self._sender = sender
        self._metadata = dict(metadata or {})
        self._terms = terms
        self._most, self._most_bytes = most, most_bytes
        self._waiting: dict[int, _Event] = {}  # in order
        self._latest: dict[tuple[Any, ...], int] = {}
        self._number = self._bytes = self.dropped = 0
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<SystemEvents {len(self._waiting)} waiting, {self.dropped} dropped>"

    def open(self) -> None:
        """Begin to send; what was told before waits for it."""
        if self._names:
            self._task = asyncio.create_task(self._work())

    def tell_comfy(self, message: Mapping[str, Any], request_id: str | None) -> None:
        """Tell a message of ComfyUI's, with the request's id in place of the prompt's.

        Args:
            message: `{"type", "data"}`, as it came over the WebSocket.
            request_id: None for what is of no request, like `status`.
        """
        name = str(message.get("type"))
        if name not in self._names or name not in COMFY_EVENTS:
            return
        data = message.get("data") or {}
        if request_id is not None:
            data = _renamed(data, request_id)
        # A later state of the same makes an earlier one that waits still worth nothing.
        key = (name, data.get("prompt_id"), data.get("node")) if name in _COALESCED else None
        self._add(name, f"comfy.{name}", {**message, "data": data}, key)

    def tell_file(
        self,
        name: str,
        *,
        url: str,
        local_path: str,
        size: int,
        duration_s: float | None = None,
    ) -> None:
        """Tell of a file that was downloaded, uploaded or deleted.

        Args:
            name: `file_downloaded`, `file_uploaded` or `file_deleted`.
            url: "unknown" where it is; without its secrets it is sent.
            size: bytes.
        """
        if name not in self._names or name not in STORAGE_EVENTS:
            return
        data: dict[str, Any] = {
            "url": redacted(url) if "://" in url else url,
            "local_path": local_path,
            "size": size,
        }
        if duration_s is not None:
            data["duration"] = duration_s
        self._add(name, f"storage.{name}", data, None)

    def _add(
        self, name: str, event: str, data: Mapping[str, Any], key: tuple[Any, ...] | None
    ) -> None:
        if self._closed:
            return
        body = orjson.dumps(
            {"event": event, "data": data, "metadata": self._metadata},
            default=str,
            option=orjson.OPT_NON_STR_KEYS,
        )
        if key is not None and key in self._latest:
            self._take(self._latest[key])
        self._number += 1
        self._waiting[self._number] = _Event(name, key, body)
        self._bytes += len(body)
        if key is not None:
            self._latest[key] = self._number
        self._bound()
        self._idle.clear()
        self._news.set()

    def _bound(self) -> None:
        while len(self._waiting) > self._most or self._bytes > self._most_bytes:
            self._take(next(iter(self._waiting)))
            self._drop("more events than the receiver takes")

    def _drop(self, why: str) -> None:
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:  # 1, 2, 4, 8, ...: a flood is told few times
            log.warning("%d system events dropped so far: %s", self.dropped, why)

    def _take(self, number: int) -> _Event:
        event = self._waiting.pop(number)
        self._bytes -= len(event.body)
        if event.key is not None:
            del self._latest[event.key]
        return event

    async def _work(self) -> None:
        while True:
            self._news.clear()
            while self._waiting:
                event = self._take(next(iter(self._waiting)))
                try:
                    await self._deliver(event)
                except Exception:
                    log.exception("a system event cannot be sent")
            self._idle.set()
            await self._news.wait()

    async def _deliver(self, event: _Event) -> None:
        now = time.time()
        letter = Posted(
            id="",
            message_id=f"evt_{secrets.token_hex(16)}",
            kind=event.name,
            order_key="",
            to=to_of(self._url),
            signed=True,
            bytes=len(event.body),
            created=now,
            since=now,
        )
        opened = Opened(self._url, {}, None, event.body, 0, len(event.body))
        while True:
            answer = await self._sender.send(letter, opened)
            await answer.close()
            verdict = judge(letter, answer.reply, self._terms, time.time(), random.random())  # noqa: S311
            if verdict.outcome == "delivered":
                return
            if verdict.outcome == "dead":
                self._drop(f"{event.name} to {letter.to}: {verdict.letter.said}")
                return
            letter = verdict.letter
            await asyncio.sleep(verdict.wait_s)

    async def close(self, timeout_s: float = 0.0) -> None:
        """Send what waits, as far as there is time, and stop."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()
            task.cancel()
            await asyncio.wait({task})
        await self._sender.close()


def _renamed(data: Mapping[str, Any], request_id: str) -> dict[str, Any]:
    """Put the request's id where the prompt's stands, in the nodes of a progress state too."""
    named = dict(data)
    if "prompt_id" in named:
        named["prompt_id"] = request_id
    nodes = named.get("nodes")
    if isinstance(nodes, dict):  # a list of ids in `execution_cached`
        named["nodes"] = {
            node_id: {**node, "prompt_id": request_id}
            if isinstance(node, dict) and "prompt_id" in node
            else node
            for node_id, node in nodes.items()
        }
    return named
