"""`comfyfn outbox`: webhooks that wait for their receiver, and those that were given up."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from handler.outbox.journal import Journal
    from handler.outbox.records import Posted


def add_parser(verbs: Any) -> None:
    """Add the verb and those below it."""
    about = "list, show, send again or drop webhooks that were not delivered"
    parser = verbs.add_parser("outbox", help=about, description=about)
    below = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    listing = _add(below, "list", _list, "list what is pending and what was given up")
    listing.add_argument("--json", action="store_true", help="an object a line")
    show = _add(below, "show", _show, "tell everything about one, but its secrets")
    show.add_argument("id", help="its id, or the end of it")
    show.add_argument("--body", action="store_true", help="its body alone")
    for name, call, help_text in (
        ("resend", _resend, "send what was given up again: by the server that runs, or the next"),
        ("drop", _drop, "remove, without delivering"),
    ):
        verb = _add(below, name, call, help_text)
        verb.add_argument("id", nargs="*", help="ids, or the ends of them")
        verb.add_argument("--all", action="store_true", help="everything that was given up")


def _add(below: Any, name: str, call: Any, about: str) -> Any:
    verb = below.add_parser(name, help=about, description=about)
    verb.set_defaults(call=call)
    return verb


def _journal() -> Journal:
    from handler.outbox.journal import Journal
    from handler.outbox.records import outbox_folder
    from handler.settings import Settings

    # Without a seal: nothing here needs what is sealed.
    return Journal(outbox_folder(Settings.from_env()), None)


def _list(options: argparse.Namespace) -> int:
    journal = _journal()
    letters = [*journal.pending(), *journal.dead()]
    if options.json:
        for letter in letters:
            print(json.dumps(asdict(letter)))
        return 0
    now = time.time()
    for letter in letters:
        state = "given up" if letter.dead else "promised" if letter.promise else "pending"
        tries = "1 try" if letter.tries == 1 else f"{letter.tries} tries"
        tries += f", {letter.said}" if letter.said else ""
        age = f"{_age(now - letter.created)} old"
        print(
            f"{letter.id}  {state:8}  {letter.kind} of {_safe(letter.message_id)} to {letter.to}, "
            f"{age}, {letter.bytes} bytes, {tries}"
        )
    dead = sum(letter.dead for letter in letters)
    # Not pending: what is told only if a worker dies before its job's end.
    promised = sum(letter.promise and not letter.dead for letter in letters)
    counts = f"{len(letters) - dead - promised} pending, {dead} given up"
    print(counts + (f", {promised} promised" if promised else ""), file=sys.stderr)
    return 0


def _show(options: argparse.Namespace) -> int:
    from handler.outbox.letter_file import copy_body

    journal = _journal()
    (letter,) = _chosen([*journal.pending(), *journal.dead()], [options.id])
    path = journal.find(letter.id)
    if path is None:
        raise _missing(letter.id)
    if options.body:
        copy_body(path, sys.stdout.buffer)
        return 0
    for name, value in asdict(letter).items():
        print(f"{name}: {_safe(str(value))}")
    print(f"file: {path}")
    return 0


def _resend(options: argparse.Namespace) -> int:
    """Hand letters over to the server: in a folder of a process that is gone."""
    journal = _journal()
    letters = _chosen(journal.dead(), None if options.all else options.id)
    sent = 0
    with _open(journal):
        for letter in letters:
            sent += journal.revive(letter.id, time.time()) is not None
    print(f"{sent} to be sent again: by the server within seconds, or at its next start")
    return 0


def _drop(options: argparse.Namespace) -> int:
    journal = _journal()
    known = journal.dead() if options.all else [*journal.pending(), *journal.dead()]
    letters = _chosen(known, None if options.all else options.id)
    promised = [letter.id for letter in letters if letter.promise and not letter.dead]
    if promised:
        raise _promised(promised[0])
    print(f"{sum(journal.drop(letter.id) for letter in letters)} dropped")
    return 0


@contextlib.contextmanager
def _open(journal: Journal) -> Iterator[None]:
    journal.open()
    try:
        yield
    finally:
        journal.close()


def _chosen(letters: list[Posted], ends: list[str] | None) -> list[Posted]:
    """Give the letters that are meant, each once; all of them for None.

    Raises:
        NotFound: one is not there, or it could be several.
    """
    if ends is None:
        return letters
    chosen = {}
    for end in ends:
        found = [letter for letter in letters if end and letter.id.endswith(end)]
        if len(found) != 1:
            raise _missing(end)
        chosen[found[0].id] = found[0]
    if not chosen:
        raise _missing("")
    return list(chosen.values())


def _missing(end: str) -> Exception:
    from handler.errors import NotFound

    return NotFound(
        f"there is not exactly one webhook whose id ends in {end!r}" if end else "none is named",
        hint="`comfyfn outbox list` shows them",
    )


def _promised(letter_id: str) -> Exception:
    from handler.errors import Conflict

    return Conflict(
        f"{letter_id} is promised: it is sent only if its job's worker dies",
        hint="it goes when the job ends",
    )


def _safe(text: str) -> str:
    """Keep a caller's text from commanding the terminal."""
    return "".join(mark if mark.isprintable() else "?" for mark in text)


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
