"""How far each model of a manifest is, for `/health` and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from handler.manifest.plan import AFTER, BEFORE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from handler.manifest.plan import Task
    from handler.manifest.records import ModelFile
    from handler.manifest.timeline import Record
    from handler.transfer.records import OnProgress, Progress

_WORDS = {"running": "fetching", "done": "there", "warned": "failed"}
_SHOWN = 6


class ModelStates:
    """The progress of every model, by the manifest's own record of it."""

    def __init__(self) -> None:
        self._progress: dict[int, Progress] = {}

    def __repr__(self) -> str:
        return f"<ModelStates of {len(self._progress)}>"

    def listen(self, model: ModelFile) -> OnProgress:
        """Give who is to be told of a model's bytes."""

        def take(news: Progress) -> None:
            self._progress[id(model)] = news

        return take

    def report(self, plan: Iterable[Task], records: Iterable[Record]) -> list[dict[str, Any]]:
        """Give a mapping for each model of a plan.

        Returns:
            `name`; `when`: before_start or after_start; `state`: waiting, fetching, there, failed
            or cancelled; `bytes`, and `total` where it is known; `mb_per_s`; `error` or None.
        """
        ended = {record.name: record for record in records}
        return [self._entry(task, ended.get(task.name)) for task in plan if task.kind == "model"]

    def _entry(self, task: Task, record: Record | None) -> dict[str, Any]:
        news = self._of(task)
        outcome = record.outcome if record is not None else "waiting"
        failed = record is not None and outcome in ("warned", "failed")
        return {
            "name": task.name.removeprefix(BEFORE).removeprefix(AFTER),
            "when": "after_start" if task.gate == "none" else "before_start",
            "state": _WORDS.get(outcome, outcome),
            "bytes": news.done if news else 0,
            "total": news.total if news else None,
            "mb_per_s": round(news.bytes_per_s / 1e6, 1) if news else None,
            "error": record.note if record is not None and failed else None,
        }

    def words(self, tasks: Iterable[Task], records: Sequence[Record], now: float) -> str | None:
        """Say what of these tasks is being done: `pip (12 s); model x 43 %`; None for nothing.

        Args:
            now: in seconds of the records' clock.
        """
        named = {task.name: task for task in tasks}
        running = [one for one in records if one.end is None and one.name in named]
        if not running:
            return None
        told = [self._doing(named[record.name], now - record.start) for record in running[:_SHOWN]]
        if len(running) > _SHOWN:
            told.append(f"{len(running) - _SHOWN} more")
        return "; ".join(told)

    def _doing(self, task: Task, seconds: float) -> str:
        news = self._of(task)
        if news is None or not news.total:
            return f"{task.name} ({seconds:.0f} s)"
        return f"{task.name} {news.done * 100 // news.total} %"

    def _of(self, task: Task) -> Progress | None:
        return self._progress.get(id(task.subject))
