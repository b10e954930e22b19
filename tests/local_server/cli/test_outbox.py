"""`comfyfn outbox` beside a real outbox."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace

import pytest
from receiver import SECRET, receiving

from handler.inputs.address import AddressPolicy
from handler.outbox.journal import Journal, new_id
from handler.outbox.outbox import Outbox
from handler.outbox.records import Letter, Terms
from handler.outbox.sealed import Seal
from handler.outbox.sending import Sender
from local_server.cli import main

BODY = b'{"type": "prompt.complete"}'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STATE_DIR", str(tmp_path))
    return tmp_path / "outbox"


@contextlib.contextmanager
def journal_in(folder):
    journal = Journal(folder, Seal(SECRET))
    journal.open()
    yield journal
    journal.close()


def write(journal, url="https://hooks.example.org/canary", message_id="job-1"):
    letter = Letter(url=url, body=BODY, message_id=message_id, kind="prompt.complete")
    return journal.write(letter, new_id(), time.time() - 7200)


def bury(journal, **options):
    letter = replace(write(journal, **options), tries=2, said="404 Not Found", dead=True)
    journal.bury(letter)
    return letter


def test_nothing_is_listed_as_such(folder, capsys):
    """Where there never was an outbox, too."""
    assert main(["outbox", "list"]) == 0
    assert capsys.readouterr() == ("", "0 pending, 0 given up\n")
    assert not folder.exists()


def test_pending_and_dead_letters_are_listed(folder, capsys):
    """With what was said last, and nothing secret."""
    with journal_in(folder) as journal:
        pending, dead = write(journal), bury(journal, message_id="job\x1b[2J")
        assert main(["outbox", "list"]) == 0
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith(f"{pending.id}  pending ")
        assert second.startswith(f"{dead.id}  given up")
        assert "2 h old, 27 bytes, 2 tries, 404 Not Found" in second
        assert "https://hooks.example.org," in first
        assert "canary" not in first
        assert "\x1b" not in second

        assert main(["outbox", "list", "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(row["id"], row["dead"]) for row in rows] == [
            (pending.id, False),
            (dead.id, True),
        ]


def test_one_is_shown(folder, capfdbinary):
    """By its id or the end of it; its body alone on request."""
    with journal_in(folder) as journal:
        dead = bury(journal)
        assert main(["outbox", "show", dead.id]) == 0
        assert b"said: 404 Not Found" in capfdbinary.readouterr().out
        assert main(["outbox", "show", dead.id[-8:], "--body"]) == 0
        assert capfdbinary.readouterr().out == BODY


@pytest.mark.parametrize(
    "words", [["show", "nothing"], ["show", ""], ["resend"], ["drop"], ["resend", "-", "zz"]]
)
def test_what_is_not_there_is_told(folder, capsys, words):
    """With status 1."""
    with journal_in(folder) as journal:
        write(journal)
    assert main(["outbox", *words]) == 1
    assert "comfyfn outbox list" in capsys.readouterr().err


def test_letters_are_dropped(folder, capsys):
    """All that were given up, or by id, pending ones too."""
    with journal_in(folder) as journal:
        pending = write(journal)
        for _ in range(2):
            bury(journal)
        assert main(["outbox", "drop", "--all"]) == 0
        assert journal.pending() == [pending]
        assert main(["outbox", "drop", pending.id]) == 0
        assert (journal.pending(), journal.dead()) == ([], [])
    assert capsys.readouterr().out == "2 dropped\n1 dropped\n"


def test_promises_are_listed_as_such_and_stay(folder, capsys):
    """They are no pending letters, and their jobs are under way."""
    with journal_in(folder) as journal:
        letter = Letter(url="https://e.org/", body=BODY, message_id="a", kind="prompt.failed")
        promise = journal.write(letter, new_id(), time.time(), promise=True)
        assert main(["outbox", "list"]) == 0
        told = capsys.readouterr()
        assert told.out.startswith(f"{promise.id}  promised")
        assert told.err == "0 pending, 0 given up, 1 promised\n"
        assert main(["outbox", "drop", promise.id]) == 1
        assert "sent only if its job's worker dies" in capsys.readouterr().err
        assert main(["outbox", "show", promise.id]) == 0
        assert journal.pending() == [promise]


async def test_running_server_sends_again(folder, capsys):
    """Without a restart; the secrets that it needs are the server's alone."""
    async with receiving() as receiver:
        with journal_in(folder) as journal:
            dead = bury(journal, url=receiver.url())
        sender = Sender(AddressPolicy("127.0.0.1"), secret=SECRET)
        outbox = Outbox(folder, sender, secret=SECRET, terms=Terms(watch_s=0.05))
        await outbox.open()
        assert await asyncio.to_thread(main, ["outbox", "resend", dead.id]) == 0
        (post,) = await receiver.got(1)
        post.verify()
        assert await outbox.drain(5) == 0
        await outbox.close()
    assert "1 to be sent again" in capsys.readouterr().out


def test_next_server_finds_what_is_to_be_sent_again(folder):
    """Where none runs."""
    with journal_in(folder) as journal:
        dead = bury(journal)
    assert main(["outbox", "resend", "--all"]) == 0
    with journal_in(folder) as journal:
        (letter,) = journal.adopt()
    assert (letter.id, letter.tries, letter.dead) == (dead.id, 0, False)
