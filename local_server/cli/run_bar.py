"""The progress bar of `comfyfn run`, wherever the job runs."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from local_server.cli.plain import plain
from local_server.cli.sizes import size_text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from handler.job import JobEvent
    from handler.wire import Answer

SAID_EVERY_S = 60.0


class Bar:
    """A progress bar on stderr; where that is no terminal, a line a minute."""

    def __init__(self, said_every_s: float = SAID_EVERY_S) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=100.0,
            file=sys.stderr,
            disable=None,
            leave=False,
            bar_format="{desc:24.24} {bar} {percentage:3.0f}% {elapsed}{postfix}",
        )
        self._said_every_s = said_every_s
        self._begun = time.monotonic()
        self._doing = ""
        self._pct = 0.0
        self._files: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._lines: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        if self._bar.disable:
            self._lines = asyncio.ensure_future(self._say_lines())
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines is not None:
            self._lines.cancel()
        self._bar.close()

    async def _say_lines(self) -> None:
        while True:
            await asyncio.sleep(self._said_every_s)
            seconds = time.monotonic() - self._begun
            far = downloads_text(self._files.values()) or f"{self._pct:.0f} %"
            print(f"{self._doing}: {far}, {seconds:.0f} s so far", file=sys.stderr)

    def say(self, text: str) -> None:
        """Tell what is done, until there is other news."""
        self._doing = plain(text)  # a platform's, or a node's title
        self._bar.set_description_str(self._doing)

    def _fetching(self, news: Mapping[str, Any]) -> None:
        self._files[news["node_id"], news["input"]] = news
        several = len(self._files) > 1
        self.say(f"fetching {f'{len(self._files)} files' if several else news['input']}")
        self._bar.set_postfix_str(downloads_text(self._files.values()))

    def _fetched(self) -> None:
        if self._files:
            self._files.clear()
            self._bar.set_postfix_str("")

    def show(self, told: JobEvent | Answer) -> Answer | None:
        """Draw an event; an answer is given back."""
        from handler.job import JobEvent

        if not isinstance(told, JobEvent):
            return told
        if told.type == "download":
            self._fetching(told.data)
        elif told.type == "progress":
            self._fetched()
            self.say(str(told.data.get("title") or "running"))
            further = max(0.0, float(told.data["overall_pct"]) - self._pct)
            self._pct += further
            self._bar.update(further)
        elif told.type == "phase":
            self._fetched()
            self.say(str(told.data["phase"]))
        return None


def downloads_text(files: Collection[Mapping[str, Any]]) -> str:
    """Sum up how far downloads are: 1.20 GB of 2.13 GB, 85.0 MB/s; "" for none.

    Args:
        files: the data of the newest `download` event of each.
    """
    if not files:
        return ""
    done = size_text(sum(news["done"] for news in files))
    totals = [news["total"] for news in files]
    whole = "" if None in totals else f" of {size_text(sum(totals))}"
    under_way = [news for news in files if news["done"] != news["total"]]
    speed = round(sum(news["bytes_per_s"] for news in under_way))
    return f"{done}{whole}" + (f", {size_text(speed)}/s" if speed else "")
