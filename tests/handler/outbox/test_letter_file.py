"""A letter as a file."""

from __future__ import annotations

import io
import os
from dataclasses import replace

import pytest
from pydantic import SecretStr

from handler.errors import InvalidPayload
from handler.outbox.letter_file import (
    BrokenLetter,
    copy_body,
    note,
    open_letter,
    read_posted,
    refuse_unsealed,
    to_of,
    write_letter,
)
from handler.outbox.records import Letter
from handler.outbox.sealed import Seal, Unsealable

URL = "https://hooks.example.org:8443/T0/path-canary?token=query-canary"
SEAL = Seal("s3cret")


def a_letter(**changes) -> Letter:
    facts = {"url": URL, "body": b'{"a": 1}\n{"tries": 5}', "message_id": "ä", "kind": "x"}
    return Letter(**{**facts, **changes})


def body_of(opened) -> bytes:
    return opened.body.read_bytes()[opened.offset : opened.offset + opened.bytes]


@pytest.mark.parametrize("seal", [None, SEAL])
def test_letter_is_read_as_it_was_written(tmp_path, seal):
    """Its facts, what a try needs, and the body byte for byte."""
    path = tmp_path / "7"
    written = write_letter(a_letter(headers={"X": "y"}, order_key="job"), path, 17.5, seal)

    assert read_posted(path) == written
    assert (written.id, written.created, written.since, written.to) == (
        *("7", 17.5, 17.5),
        "https://hooks.example.org:8443",
    )
    opened = open_letter(path, seal)
    assert (opened.url, opened.headers, opened.secret) == (URL, {"X": "y"}, None)
    assert body_of(opened) == a_letter().body
    assert path.stat().st_mode & 0o777 == 0o600


def test_body_from_a_file_is_copied(tmp_path):
    """The file may go then."""
    source = tmp_path / "body"
    body = os.urandom(3 << 20)
    source.write_bytes(body)
    written = write_letter(a_letter(body=source), tmp_path / "7", 1.0, None)
    source.unlink()

    assert written.bytes == len(body)
    assert body_of(open_letter(tmp_path / "7", None)) == body
    assert read_posted(tmp_path / "7") == written


def test_body_is_shown_without_what_follows_it(tmp_path):
    """Sealed or not: it is what the receiver would have seen."""
    letter = write_letter(a_letter(), tmp_path / "7", 1.0, SEAL)
    note(tmp_path / "7", letter)
    sink = io.BytesIO()
    copy_body(tmp_path / "7", sink)
    assert sink.getvalue() == a_letter().body


def test_body_that_is_not_there_leaves_nothing(tmp_path):
    """The caller is told."""
    with pytest.raises(FileNotFoundError):
        write_letter(a_letter(body=tmp_path / "none"), tmp_path / "7", 1.0, None)
    assert list(tmp_path.iterdir()) == []


def test_secrets_are_sealed(tmp_path):
    """Secret, URL and headers: none of them is in the file's bytes."""
    url = "https://user:pass-canary@e.org/path-canary?token=query-canary"
    letter = a_letter(url=url, secret=SecretStr("secret-canary"), headers={"X": "header-canary"})
    write_letter(letter, tmp_path / "7", 1.0, SEAL)

    assert b"canary" not in (tmp_path / "7").read_bytes()
    opened = open_letter(tmp_path / "7", SEAL)
    assert (opened.url, opened.secret) == (url, "secret-canary")


@pytest.mark.parametrize("changes", [{"secret": SecretStr("x")}, {"url": "https://u:p@e.org/"}])
def test_secrets_are_refused_where_they_cannot_be_sealed(tmp_path, changes):
    """The message says what to set; nothing is written."""
    with pytest.raises(InvalidPayload) as caught:
        write_letter(a_letter(**changes), tmp_path / "7", 1.0, None)
    assert "WEBHOOK_SECRET" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []
    refuse_unsealed(a_letter(**changes).url, SecretStr("x"), SEAL)


@pytest.mark.parametrize("seal", [None, Seal("another")])
def test_sealed_letter_needs_its_secret(tmp_path, seal):
    """What it is can be read without."""
    write_letter(a_letter(), tmp_path / "7", 1.0, SEAL)

    with pytest.raises(Unsealable):
        open_letter(tmp_path / "7", seal)
    assert read_posted(tmp_path / "7").kind == "x"


def test_sealed_part_cannot_be_moved_to_another_letter(tmp_path):
    """Whoever can write there must not get a secret used for another receiver."""
    write_letter(a_letter(), tmp_path / "7", 1.0, SEAL)
    (tmp_path / "7").rename(tmp_path / "8")
    with pytest.raises(Unsealable):
        open_letter(tmp_path / "8", SEAL)


def test_the_last_whole_note_counts(tmp_path):
    """A note that a crash cut is passed over, and so are lines of the body that look like one."""
    path = tmp_path / "7"
    letter = write_letter(a_letter(), path, 1.0, None)
    once = replace(letter, tries=1, said="500")
    twice = replace(once, tries=2, refusals=1, said="404", since=9.0, dead=True)

    assert read_posted(path).tries == 0
    note(path, once)
    assert read_posted(path) == once
    note(path, twice, durable=True)
    with path.open("ab") as file:
        file.write(b'\n{"since": 3, "tr')
    assert read_posted(path) == twice
    note(path, once)
    assert read_posted(path) == once


def test_note_does_not_bring_a_letter_back(tmp_path):
    """It was dropped meanwhile."""
    letter = write_letter(a_letter(), tmp_path / "7", 1.0, None)
    (tmp_path / "7").unlink()
    with pytest.raises(FileNotFoundError):
        note(tmp_path / "7", letter)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\n",
        b"[]\n",
        b'{"format": 99}\n',
        b'{"format": 1}\n',
        b'{"format": 1, "bytes": "x"}',
    ],
)
def test_what_is_no_letter_is_told(tmp_path, text):
    """Of another format, or damaged."""
    (tmp_path / "7").write_bytes(text)
    with pytest.raises(BrokenLetter):
        read_posted(tmp_path / "7")
    with pytest.raises(BrokenLetter):
        open_letter(tmp_path / "7", None if b"private" in text else SEAL)


def test_letter_that_was_cut_short_is_told(tmp_path):
    """A body must be sent whole or not at all."""
    write_letter(a_letter(), tmp_path / "7", 1.0, None)
    text = (tmp_path / "7").read_bytes()
    (tmp_path / "7").write_bytes(text[:-1])
    with pytest.raises(BrokenLetter, match="cut short"):
        read_posted(tmp_path / "7")


def test_only_the_origin_of_a_url_is_shown():
    """A path is a password at some receivers."""
    assert to_of(URL) == "https://hooks.example.org:8443"
    assert to_of("http://u:p@[::1]:80/x") == "http://[::1]:80"
