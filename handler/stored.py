"""Answers made of records: for who sends the same again, or asks later, or asks another worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import uuid
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from handler.errors import HandlerError, ResultGone
from handler.pipeline.archive import MIME as ARCHIVE_MIME
from handler.records import Output
from handler.wire import Answer

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from handler.errors import Blame
    from handler.state.place import State
    from handler.state.records import JobRecord, OutputRecord


class StoredError(HandlerError):
    """An error as a record tells it."""

    def __init__(self, told: dict[str, Any]) -> None:
        blame: Blame = told.get("blame") or "platform"
        super().__init__(
            str(told.get("error") or "the job failed"),
            location=told.get("location"),
            node_id=told.get("node_id"),
            node_title=told.get("node_title"),
            class_type=told.get("class_type"),
            hint=told.get("hint"),
            details=told.get("details"),
            log_tail=told.get("log_tail"),
            blame=blame,
            retryable=bool(told.get("retryable")),
        )
        # They are the class's elsewhere; here the record says them.
        self.__dict__["code"] = str(told.get("code") or "internal_error")
        self.__dict__["status"] = int(told.get("statusCode") or 500)


async def stored_answer(
    record: JobRecord, head: dict[str, Any], state: State | None, scratch: Path
) -> Answer:
    """Give the answer of a job that is over.

    Args:
        head: the echoed request.
        scratch: where its files are brought until the answer is closed.

    Raises:
        StoredError: it failed.
        ResultGone: it has an output that is neither kept nor uploaded.
    """
    if record.error is not None:
        fault = StoredError(record.error)
        raise fault.with_stats(record.stats) if record.stats else fault
    folder = scratch / f"stored-{uuid.uuid4().hex}"

    async def close() -> None:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    try:
        outputs = await stored_outputs(record, state, folder)
    except BaseException:
        await close()
        raise
    engine = record.stats.get("engine")
    tail = {"stats": record.stats, "engine": engine, "replayed": True}
    # One file of all is no node's.
    archive = [(one.node_id, one.mime) for one in outputs] == [("", ARCHIVE_MIME)]
    return Answer(record.id, head, outputs, tail, on_close=close, archive=archive)


async def stored_outputs(
    record: JobRecord, state: State | None, folder: Path, *, files: bool = False
) -> list[Output]:
    """Bring a job's outputs back.

    Args:
        folder: of the files; made where it is missing.
        files: also those that were uploaded shall be files again.

    Raises:
        ResultGone: one is neither kept nor uploaded.
    """
    await asyncio.to_thread(partial(folder.mkdir, parents=True, exist_ok=True))
    return [
        await _output(one, record, state, folder / f"{place:04}", files=files)
        for place, one in enumerate(record.outputs)
    ]


async def _output(
    one: OutputRecord, record: JobRecord, state: State | None, path: Path, *, files: bool
) -> Output:
    known: Any = {name: one.facts.get(name) for name in ("width", "height", "duration_s")}
    text = one.facts.get("text")
    output = Output(
        node_id=str(one.facts.get("node_id") or ""),
        title=str(one.facts.get("title") or ""),
        kind=one.facts.get("kind") or "file",
        mime=one.mime,
        filename=str(one.facts.get("filename") or one.name),
        bytes=one.bytes,
        sha256=one.sha256,
        url=one.url,
        uploads=tuple(one.facts.get("uploads") or ()),
        text=text,
        **known,
    )
    if one.url is not None and not files:
        return output
    if one.kept and state is not None:
        source = await state.store.call(
            partial(state.kept.open_now, record.uid, one.name), dispose=_close
        )
        if source is not None:
            await state.store.call(partial(_copy, source, path))
            if text is None:
                return replace(output, path=path)
            raw = await asyncio.to_thread(path.read_bytes)  # read as text, its line ends change
            return replace(output, text=raw.decode(errors="replace"))
    if one.whole:
        return output
    raise ResultGone(
        f"the result of job {record.id[:200]!r} is not kept: {output.filename}",
        hint="it was given to whoever waited for it, or OUTPUT_RETENTION_S is over",
        details={"filename": output.filename, "status": record.phase},
    )


def _copy(source: BinaryIO, path: Path) -> None:
    """Have a kept file under a path of our own, linked where that is possible.

    Who reads slowly, many times at once, would fill the disk with copies.
    """
    with source:
        try:
            os.link(getattr(source, "name", ""), path)
        except OSError:  # another disk, no file, or gone meanwhile: it is open all the same
            with path.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def _close(file: BinaryIO | None) -> None:
    if file is not None:
        with contextlib.suppress(OSError):
            file.close()
