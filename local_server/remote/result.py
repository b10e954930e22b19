"""What a remote job gave, in whatever form, and how it becomes files here."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from local_server.remote.faults import Truncated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from local_server.remote.download import Fetch

LONGEST_NAME = 180
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*]')
_SUFFIX = {"image": ".png", "video": ".mp4", "audio": ".flac"}


@dataclass(frozen=True, slots=True)
class Thing:
    """One output, before it is here. At most one of the last three is set.

    Attributes:
        facts: as an answer's `outputs` tells it: `node_id`, `title`, `kind`, `filename`, `bytes`,
            `sha256`, `text`; any may be missing.
        encoded: its bytes in base64.
        url: where it lies.
        path: where the server of the job has it, for its own client.
    """

    facts: dict[str, Any]
    encoded: str | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)
    path: str | None = None

    @property
    def text(self) -> str | None:
        """What it says, where it is a text."""
        text = self.facts.get("text")
        return text if isinstance(text, str) else None


@dataclass(frozen=True, slots=True)
class Result:
    """A job that succeeded.

    Attributes:
        job_id: begins the file names.
        stats, engine: of the answer, where it has them.
    """

    job_id: str
    things: list[Thing]
    stats: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Saved:
    """An output as it is here.

    Attributes:
        path: the file; None for a text, or for what can be had at its URL alone.
        url: where it is, when it is not here.
    """

    facts: dict[str, Any]
    path: Path | None = None
    url: str | None = None

    @property
    def text(self) -> str | None:
        """What it says, where it is a text."""
        text = self.facts.get("text")
        return text if isinstance(text, str) else None

    @property
    def title(self) -> str:
        """The node that told it."""
        return str(self.facts.get("title") or self.facts.get("node_id") or "text")


def result_of(answer: Any) -> Result:
    """Read an answer: ours, comfyui-api's, worker-comfyui's, or outputs that came one by one.

    Raises:
        Truncated: it is none.
    """
    if isinstance(answer, list):  # of a stream: events, outputs, or answers
        answer = _joined(answer)
    if not isinstance(answer, dict):
        raise Truncated(f"the answer is no object but {type(answer).__name__}")
    images = answer.get("images") if isinstance(answer.get("images"), list) else []
    outputs = answer.get("outputs")
    if isinstance(outputs, list) and all(isinstance(one, dict) for one in outputs):
        things = _ours(outputs, list(images or ()))
    else:
        things = _others(answer)
    stats, engine = answer.get("stats"), answer.get("engine")
    return Result(
        str(answer.get("id") or ""),
        things,
        stats if isinstance(stats, dict) else {},
        engine if isinstance(engine, dict) else {},
    )


def _joined(items: list[Any]) -> dict[str, Any]:
    """Make one answer of the items of a stream: outputs, and the answer without them last."""
    dicts = [one for one in items if isinstance(one, dict)]
    whole = [one for one in dicts if isinstance(one.get("images"), list)]
    if whole:
        return whole[-1]
    last: dict[str, Any] = next((one for one in dicts if one.get("type") == "result"), {})
    came = {_key(one): one for one in dicts if one.get("type") == "output"}
    told = last.get("outputs")
    if isinstance(told, list) and all(isinstance(one, dict) for one in told):
        outputs = [{**came.get(_key(one), {}), **one} for one in told]
    else:
        outputs = list(came.values())
    return {**last, "outputs": outputs}


def _key(output: dict[str, Any]) -> tuple[Any, ...]:
    text = output.get("text") if output.get("filename") is None else None
    return (output.get("node_id"), output.get("filename"), text)


def _ours(outputs: list[dict[str, Any]], images: list[Any]) -> list[Thing]:
    """Bring outputs and `images` together: the latter has what is a file, in the same order."""
    things, files = [], iter(images)
    for facts in outputs:
        if isinstance(facts.get("text"), str):
            things.append(Thing(facts))
            continue
        told = next(files, facts.get("data"))
        things.append(_thing(facts, facts.get("url") if told is None else told))
    return things


def _others(answer: dict[str, Any]) -> list[Thing]:
    names = answer.get("filenames")
    known = names if isinstance(names, list) else []
    things = [
        _entry(entry, known[place] if place < len(known) else None, kind)
        for key, kind in _LISTS.items()
        for place, entry in enumerate(answer.get(key) or ())
        if isinstance(answer.get(key), list)
    ]
    texts = answer.get("texts")
    told = [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []
    return [*things, *(Thing({"text": text, "kind": "text"}) for text in told)]


_LISTS = {
    "images": "image",
    "videos": "video",
    "audio": "audio",
    "models3d": "model3d",
    "files": "file",
}


def _entry(entry: Any, name: Any, kind: str) -> Thing:
    if isinstance(entry, dict):  # worker-comfyui's
        return _thing({"filename": entry.get("filename"), "kind": kind}, entry.get("data"))
    return _thing({"filename": name, "kind": kind}, entry)


def _thing(facts: dict[str, Any], value: Any) -> Thing:
    if not isinstance(value, str):
        return Thing(facts)
    if _URL.match(value):
        return Thing(facts, url=value)
    return Thing(facts, encoded=value.partition(",")[2] if value.startswith("data:") else value)


async def save(result: Result, folder: Path, fetch: Fetch) -> AsyncIterator[Saved]:
    """Bring the outputs into a folder, under new names where theirs are taken.

    Raises:
        Truncated: bytes are not those that were promised.
        Unreachable: they cannot be had.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    for thing in result.things:
        if thing.text is not None:
            yield Saved(thing.facts)
            continue
        name = leaf(str(thing.facts.get("filename") or ""), result.job_id)
        if "." not in name:
            name += _SUFFIX.get(str(thing.facts.get("kind")), "")
        write = _writer(thing, fetch)
        if write is None:
            yield Saved(thing.facts, url=thing.url)
            continue
        part = await asyncio.to_thread(_reserved, folder, name)
        try:
            here = await write(part)
            if here:
                await asyncio.to_thread(_check, part, thing.facts)
                target = await asyncio.to_thread(_moved, part, folder, name)
                yield Saved(thing.facts, path=target)
            else:
                yield Saved(thing.facts, url=thing.url)
        finally:
            part.unlink(missing_ok=True)


def _writer(thing: Thing, fetch: Fetch) -> Callable[[Path], Awaitable[bool]] | None:
    """Give what writes an output to a path and tells whether it could; None where nothing can."""
    if thing.encoded is not None:
        encoded = thing.encoded

        async def decode(path: Path) -> bool:
            await asyncio.to_thread(_decoded, encoded, path)
            return True

        return decode
    if thing.path is not None:
        own = thing.path
        return lambda path: fetch.own(own, path, thing.facts)
    if thing.url is not None and thing.url.lower().startswith(("http://", "https://")):
        url = thing.url
        return lambda path: fetch.foreign(url, path)
    if thing.url is not None:
        return None
    raise Truncated(
        f"the output {thing.facts.get('filename')} came without its bytes",
        hint=str(thing.facts.get("omitted") or "was it kept? OUTPUT_RETENTION_S says for how long"),
    )


def _decoded(encoded: str, path: Path) -> None:
    try:
        path.write_bytes(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError) as error:
        raise Truncated(f"an output is no base64: {error}") from error


def _check(path: Path, facts: dict[str, Any]) -> None:
    expected = facts.get("sha256")
    if not isinstance(expected, str) or len(expected) != 64:
        return
    with path.open("rb") as source:
        found = hashlib.file_digest(source, "sha256").hexdigest()
    if found != expected:
        raise Truncated(f"{facts.get('filename')} is not what the worker made: {found} by sha256")


def leaf(name: str, job_id: str = "") -> str:
    """Make a file name of what a server says: of this folder, and without the job's id."""
    name = name.replace("\\", "/").rpartition("/")[2]
    if job_id:
        name = name.removeprefix(f"{job_id}_")
    name = _FORBIDDEN.sub("_", name).lstrip(".- ").rstrip(". ")  # to no program an option
    while len(name.encode()) > LONGEST_NAME:
        stem, dot, suffix = name.rpartition(".")
        name = f"{stem[:-1]}{dot}{suffix}" if stem and len(suffix) < 20 else name[:-1]
    return name or "output"


def free_name(folder: Path, name: str) -> Path:
    """Give a path in a folder that is not taken: `a.png`, `a-2.png`, ..."""
    target, count = folder / name, 1
    while target.exists():
        count += 1
        stem, suffix = target.with_name(name).stem, target.suffix
        target = folder / f"{stem}-{count}{suffix}"
    return target


def _reserved(folder: Path, name: str) -> Path:
    part = free_name(folder, f".{name}.part")
    part.touch()
    return part


def _moved(part: Path, folder: Path, name: str) -> Path:
    target = free_name(folder, name)
    part.rename(target)
    return target
