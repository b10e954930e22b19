"""One letter as a file: a line of JSON that says what it is, the body, and notes after it.

The line and the body never change. A note is a line of JSON too, appended after a try: what a
crash leaves of one is no JSON, and is passed over.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from typing import IO, TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from handler.errors import InvalidPayload
from handler.outbox.records import Opened, Posted
from handler.outbox.sealed import Unsealable

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr

    from handler.outbox.records import Letter
    from handler.outbox.sealed import Seal

_FORMAT = 1
_CHUNK = 1 << 20
_LONGEST_HEAD = 1 << 20
_NOTED = ("since", "tries", "refusals", "said", "dead")
_NEEDS = "only with WEBHOOK_SECRET set: until it is delivered, it is kept encrypted under that"


class BrokenLetter(Exception):
    """The file is no letter that we can read."""


def to_of(url: str) -> str:
    """Give scheme, host and port: what of a URL may be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def refuse_unsealed(url: str, secret: SecretStr | None, seal: Seal | None) -> None:
    """Refuse what would have to be kept in the clear.

    Raises:
        InvalidPayload: naming WEBHOOK_SECRET as the remedy.
    """
    if seal is not None:
        return
    if secret is not None:
        raise InvalidPayload("a secret of the request's own is not taken here", hint=_NEEDS)
    if "@" in urlsplit(url).netloc:
        raise InvalidPayload("a webhook URL with user and password is not taken here", hint=_NEEDS)


def write_letter(
    letter: Letter, path: Path, now: float, seal: Seal | None, *, promise: bool = False
) -> Posted:
    """Write a letter to the disk itself; `path` ends in the letter's id.

    What was there before, a promise, is there until the new one is, whole.

    Args:
        now: epoch seconds.
        seal: None where WEBHOOK_SECRET is not set; URL and headers are in the clear then.
        promise: it is not to be tried yet.

    Raises:
        InvalidPayload: there is a secret and no seal.
        OSError: it cannot be written; nothing of it is left.
    """
    refuse_unsealed(letter.url, letter.secret, seal)
    posted = posted_of(letter, path.name, now, promise=promise)
    part = path.with_name(f".{path.name}")
    try:
        # No one else may read it: what is not sealed may still be private.
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            posted = _written(letter, posted, file, seal)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return posted


def posted_of(letter: Letter, letter_id: str, now: float, *, promise: bool = False) -> Posted:
    """Tell what a letter is; its size is that of a body in memory, else 0."""
    return Posted(
        id=letter_id,
        message_id=letter.message_id,
        kind=letter.kind,
        order_key=letter.order_key,
        to=to_of(letter.url),
        signed=letter.signed,
        bytes=len(letter.body) if isinstance(letter.body, bytes) else 0,
        created=now,
        since=now,
        promise=promise,
    )


def _written(letter: Letter, posted: Posted, file: BinaryIO, seal: Seal | None) -> Posted:
    if isinstance(letter.body, bytes):
        _write_head(letter, posted, file, seal)
        file.write(letter.body)
        return posted
    with letter.body.open("rb") as body:
        posted = replace(posted, bytes=os.fstat(body.fileno()).st_size)
        _write_head(letter, posted, file, seal)
        written = 0
        while chunk := body.read(min(_CHUNK, posted.bytes - written)):
            written += file.write(chunk)
    if written != posted.bytes:
        raise OSError(f"the body has {written} bytes, {posted.bytes} were told")
    return posted


def _write_head(letter: Letter, posted: Posted, file: BinaryIO, seal: Seal | None) -> None:
    facts = {name: value for name, value in asdict(posted).items() if name not in ("id", *_NOTED)}
    private = {
        "url": letter.url,
        "headers": dict(letter.headers),
        "secret": letter.secret.get_secret_value() if letter.secret is not None else None,
    }
    hidden: dict[str, Any] = {"private": private}
    if seal is not None:
        hidden = {"sealed": seal.close(json.dumps(private).encode(), posted.id)}
    file.write(json.dumps({"format": _FORMAT, **facts, **hidden}).encode() + b"\n")


def read_posted(path: Path) -> Posted:
    """Read what a letter is and what was noted last.

    Raises:
        BrokenLetter: it is no letter of ours.
        FileNotFoundError: it is gone.
    """
    with path.open("rb") as file:
        head = _head(file)
        try:
            posted = Posted(
                id=path.name,
                message_id=str(head["message_id"]),
                kind=str(head["kind"]),
                order_key=str(head["order_key"]),
                to=str(head["to"]),
                signed=bool(head["signed"]),
                bytes=int(head["bytes"]),
                created=float(head["created"]),
                since=float(head["created"]),
                promise=bool(head.get("promise")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BrokenLetter(f"{path.name}: {type(error).__name__}") from error
        if os.fstat(file.fileno()).st_size < file.tell() + posted.bytes:
            raise BrokenLetter(f"{path.name}: cut short")
        file.seek(posted.bytes, os.SEEK_CUR)
        lines = file.read().splitlines()
    return replace(posted, **_last_note(lines))


def _last_note(lines: list[bytes]) -> dict[str, Any]:
    for line in reversed(lines):
        try:
            note = json.loads(line)
            return {
                "since": float(note["since"]),
                "tries": int(note["tries"]),
                "refusals": int(note["refusals"]),
                "said": str(note["said"]),
                "dead": bool(note["dead"]),
                "promise": False,  # whoever takes one over notes it, and it is a letter then
            }
        except (ValueError, KeyError, TypeError):
            continue
    return {}


def open_letter(path: Path, seal: Seal | None) -> Opened:
    """Read what a try needs; the body stays where it is.

    Raises:
        Unsealable: it was sealed under another WEBHOOK_SECRET, or there is none now.
        BrokenLetter: it is no letter of ours.
        FileNotFoundError: it is gone.
    """
    with path.open("rb") as file:
        head = _head(file)
        offset = file.tell()
    try:
        private = head.get("private")
        if private is None:
            if seal is None:
                raise Unsealable("sealed under a WEBHOOK_SECRET that is not set")
            private = json.loads(seal.open(head["sealed"], path.name))
        return Opened(
            private["url"], private["headers"], private["secret"], path, offset, int(head["bytes"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenLetter(f"{path.name}: {type(error).__name__}") from error


def copy_body(path: Path, sink: IO[bytes]) -> None:
    """Write a letter's body, which is never sealed.

    Raises:
        BrokenLetter: it is no letter of ours.
        FileNotFoundError: it is gone.
    """
    with path.open("rb") as file:
        left = int(_head(file)["bytes"])
        while chunk := file.read(min(_CHUNK, left)):
            left -= len(chunk)
            sink.write(chunk)


def note(path: Path, letter: Posted, *, durable: bool = False) -> None:
    """Append what came of the last try.

    Raises:
        OSError: it cannot be written; FileNotFoundError where the letter is gone.
    """
    facts = asdict(letter)
    line = json.dumps({name: facts[name] for name in _NOTED})
    # Not "ab": a letter that was dropped meanwhile must not come back as a file of notes.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
        file.write(b"\n" + line.encode() + b"\n")
        if durable:
            file.flush()
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make sure that names made in and removed from a folder are so after a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _head(file: BinaryIO) -> dict[str, Any]:
    line = file.readline(_LONGEST_HEAD)
    try:
        head = json.loads(line)
    except ValueError as error:
        raise BrokenLetter("its first line is no JSON") from error
    if not isinstance(head, dict) or head.get("format") != _FORMAT:
        raise BrokenLetter("it is of another format")
    return head
