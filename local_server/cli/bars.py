"""Progress for people: bars on a terminal, lines on any other stream."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from handler.manifest.records import ModelFile
    from handler.manifest.timeline import Record
    from handler.transfer.records import OnProgress, Progress

_TOLD_EVERY = 0.1
"""Of a file that takes long; the log of an image build has no bars."""

_WORTH_TELLING = 100 << 20


class StepBar:
    """A bar of the steps; on a stream that is no terminal a line for each step."""

    def __init__(self, steps: int, stream: TextIO) -> None:
        from tqdm import tqdm

        self._stream = stream
        self._shown = stream.isatty()
        self._bar = tqdm(total=steps, unit="step", disable=not self._shown, file=self._stream)
        self._running: dict[str, None] = {}

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def tell(self, record: Record) -> None:
        """Show a step that began or ended."""
        if record.end is None:
            self._running[record.name] = None
        else:
            self._running.pop(record.name, None)
            self._bar.update(1)
            if not self._shown:
                note = f": {record.note}" if record.note else ""
                print(f"{record.name}: {record.outcome}{note}", file=self._stream)
        self._bar.set_description(", ".join(self._running)[:60])


class ByteBars:
    """A bar of bytes for each model on its way; without a terminal a line for each tenth."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = stream.isatty()
        self._bars: dict[int, Any] = {}
        self._told: dict[int, float] = {}

    def listen(self, model: ModelFile) -> OnProgress:
        """Give who is told of a model's bytes."""
        return partial(self._tell, model)

    def close(self) -> None:
        """Take all bars away."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()

    def _tell(self, model: ModelFile, news: Progress) -> None:
        if self._shown:
            self._draw(model, news)
        elif news.total is not None and news.total >= _WORTH_TELLING:
            part = news.done / news.total
            if part - self._told.setdefault(id(model), 0.0) >= _TOLD_EVERY:
                self._told[id(model)] = part
                done = f"{part:4.0%} of {news.total / 1e6:,.0f} MB"
                print(
                    f"{model.label}: {done}, {news.bytes_per_s / 1e6:,.0f} MB/s", file=self._stream
                )

    def _draw(self, model: ModelFile, news: Progress) -> None:
        from tqdm import tqdm

        bar = self._bars.get(id(model))
        if bar is None:
            bar = self._bars[id(model)] = tqdm(
                desc=f"{model.label:.40}",
                total=news.total,
                initial=news.done,
                unit="B",
                unit_scale=True,
                file=self._stream,
                leave=False,
            )
        bar.total = news.total
        bar.update(news.done - bar.n)
