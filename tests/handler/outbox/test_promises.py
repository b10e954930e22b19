"""Letters for the case that a process dies."""

from __future__ import annotations

import asyncio
import logging
import shutil
from dataclasses import replace

import pytest
from posting import TERMS, gone, left_files, letter, opened, when
from pydantic import SecretStr
from receiver import receiving

from handler.errors import InvalidPayload
from handler.outbox.journal import Journal, new_id
from handler.outbox.records import OutboxFailed, OutboxFull, PromiseGone

LOST, REAL = b'{"lost": true}', b'{"real": true}'


@pytest.fixture
async def receiver():
    async with receiving() as running:
        yield running


def lost(receiver, **changes):
    return letter(receiver.url(), body=LOST, **changes)


def real(receiver, **changes):
    return letter(receiver.url(), body=REAL, **changes)


def names(folder) -> list[str]:
    return [name.rpartition("/")[2] for name in left_files(folder)]


async def test_promise_is_on_disk_and_not_sent(tmp_path, receiver):
    """It counts, is no pending letter, and is left alone by a drain; it goes when withdrawn."""
    async with opened(tmp_path) as outbox:
        promise = await outbox.promise(lost(receiver))
        await outbox.post(letter(receiver.url("/other")))
        await gone(outbox)

        assert names(tmp_path) == [promise]
        assert outbox.pending() == []
        assert await outbox.drain(1) == 0
        assert repr(outbox) == "<Outbox 0 pending, 1 promised, 0 dead>"
        for _ in range(2):
            await outbox.withdraw(promise)
        assert (outbox._room.letters, outbox._room.bytes) == (0, 0)
    assert [post.path for post in receiver.posts] == ["/other"]
    assert left_files(tmp_path) == []


async def test_letter_takes_the_place_of_a_promise(tmp_path, receiver):
    """By its name, and only it is sent."""
    receiver.replies["/hook"] = [500, 500, 200]
    async with opened(tmp_path) as outbox:
        promise = await outbox.promise(lost(receiver))
        assert await outbox.post(real(receiver), over=promise) == promise
        assert names(tmp_path) == [promise]
        await gone(outbox)
        assert (outbox._room.letters, outbox._room.bytes) == (0, 0)
    assert [post.body for post in receiver.posts] == [REAL] * 3
    assert left_files(tmp_path) == []


async def test_promise_is_kept_once(tmp_path, receiver):
    """And not after it was withdrawn; what is none is refused without a letter."""
    async with opened(tmp_path) as outbox:
        promise = await outbox.promise(lost(receiver))
        await outbox.post(real(receiver), over=promise)
        withdrawn = await outbox.promise(lost(receiver))
        await outbox.withdraw(withdrawn)
        for none in (promise, withdrawn, new_id()):
            with pytest.raises(PromiseGone):
                await outbox.post(real(receiver), over=none)
        await gone(outbox)
    assert len(receiver.posts) == 1


async def test_promise_left_at_the_end_is_told_and_delivered_by_the_next(
    tmp_path, receiver, caplog
):
    """As any letter: it is noted as one, and its age counts from then on."""
    async with opened(tmp_path) as outbox:
        await outbox.promise(lost(receiver))
    assert "1 promises are left" in caplog.text
    assert receiver.posts == []

    receiver.replies["/hook"] = ["hang"]
    async with opened(tmp_path, clock=lambda: 4e9, terms=replace(TERMS, timeout_s=60)) as outbox:
        (due,) = outbox.pending()
        assert (due.promise, due.since) == (False, 4e9)
        await receiver.got(1)
        journal = Journal(tmp_path, None)
        assert [(one.id, one.promise, one.since) for one in journal.pending()] == [
            (due.id, False, 4e9)
        ]
    assert receiver.posts[0].body == LOST


async def test_other_worker_delivers_the_promises_of_one_that_is_gone(tmp_path, receiver):
    """While it runs; those of one that lives are left alone."""
    async with opened(tmp_path) as outbox:
        async with opened(tmp_path) as other:
            await other.promise(lost(receiver))
            kept = await outbox.promise(lost(receiver))
            assert outbox._journal.adopt() == other._journal.adopt() == []
        await receiver.got(1)
        await gone(outbox)
        assert names(tmp_path) == [kept]
        await outbox.withdraw(kept)
    assert len(receiver.posts) == 1


async def test_death_amid_taking_the_place_leaves_the_promise(tmp_path, receiver):
    """Before the new letter has its name it is nothing; from then on the promise is nothing."""
    async with opened(tmp_path) as outbox:
        promise = await outbox.promise(lost(receiver))
        (own,) = tmp_path.glob("at-*")
        half = own / f".{promise}"
        half.write_bytes(b'{"format": 1, "message_id"')
    async with opened(tmp_path) as outbox:
        await gone(outbox)
    assert [post.body for post in receiver.posts] == [LOST]
    assert left_files(tmp_path) == []


async def test_letters_come_in_the_order_of_posting_after_a_restart(tmp_path, receiver):
    """One in a promise's place is not older than what was posted before it."""
    receiver.replies["/hook"] = ["hang"]
    async with opened(tmp_path) as outbox:
        promise = await outbox.promise(lost(receiver))
        for name in "ab":
            await outbox.post(real(receiver, message_id=name, order_key="job"))
        await outbox.post(real(receiver, message_id="c", order_key="job"), over=promise)
        assert [one.message_id for one in outbox.pending()] == ["a", "b", "c"]
        await outbox.promise(lost(receiver, message_id="d", order_key="job"))
    receiver.posts.clear()
    receiver.replies["/hook"] = [200]
    async with opened(tmp_path) as outbox:
        await gone(outbox)
    assert [post.id for post in receiver.posts] == ["a", "b", "c", "d"]


async def test_same_is_refused_as_by_post(tmp_path, receiver):
    """And leaves nothing."""
    async with opened(tmp_path, secret="") as outbox:
        with pytest.raises(InvalidPayload):
            await outbox.promise(lost(receiver, secret=SecretStr("testsecret")))
        with pytest.raises(OutboxFailed, match="No such file"):
            await outbox.promise(letter(receiver.url(), body=tmp_path / "none"))
        assert outbox._room.letters == 0
    with pytest.raises(OutboxFailed, match="closed"):
        await outbox.promise(lost(receiver))
    assert left_files(tmp_path) == []


async def test_promise_has_its_room(tmp_path, receiver):
    """In a full outbox, a letter in its place is refused for its bytes only; the promise stands."""
    terms = replace(TERMS, max_letters=2, max_bytes=100)
    receiver.replies["/other"] = ["hang"]
    async with opened(tmp_path, terms=replace(terms, timeout_s=60)) as outbox:
        promise = await outbox.promise(lost(receiver))
        await outbox.post(letter(receiver.url("/other")))
        with pytest.raises(OutboxFull):
            await outbox.promise(lost(receiver))
        with pytest.raises(OutboxFull):
            await outbox.post(letter(receiver.url(), body=b"x" * 100), over=promise)
        assert (outbox._room.letters, outbox._room.bytes) == (2, len(LOST) + 8)
        await outbox.post(real(receiver), over=promise)
        await receiver.got(2)
    assert REAL in [post.body for post in receiver.posts]


async def test_body_that_cannot_be_read_leaves_the_promise(tmp_path, receiver):
    """Another letter can take its place then."""
    async with opened(tmp_path / "outbox") as outbox:
        promise = await outbox.promise(lost(receiver))
        with pytest.raises(OutboxFailed):
            await outbox.post(letter(receiver.url(), body=tmp_path / "none"), over=promise)
        assert names(tmp_path) == [promise]
        await outbox.post(real(receiver), over=promise)
        await gone(outbox)
    assert [post.body for post in receiver.posts] == [REAL]


async def test_disk_that_takes_no_promise_is_told_and_the_letter_arrives(
    tmp_path, receiver, caplog
):
    """Held in memory; nothing but the guarantee is lost."""
    (tmp_path / "file").write_text("")
    async with opened(tmp_path / "file") as outbox:
        promise = await outbox.promise(lost(receiver))
        assert "nothing will be told if this process dies" in caplog.text
        await outbox.post(real(receiver), over=promise)
        await gone(outbox)
        await outbox.withdraw(await outbox.promise(lost(receiver)))
        assert (outbox._room.letters, outbox._room.bytes) == (0, 0)
    assert [post.body for post in receiver.posts] == [REAL]


async def test_letter_that_is_held_takes_its_promise_along(tmp_path, receiver):
    """The disk was full for it, and the promise is there still: not to be sent any more."""
    async with opened(tmp_path) as outbox:
        promise = await outbox.promise(lost(receiver))
        (own,) = tmp_path.glob("at-*")
        (own / f".{promise}").mkdir()  # so that nothing can be written under the name
        await outbox.post(real(receiver), over=promise)
        assert promise in outbox._held
        await gone(outbox)
        assert left_files(tmp_path) == []
        (own / f".{promise}").rmdir()
    assert [post.body for post in receiver.posts] == [REAL]


async def test_dropping_does_not_break_a_promise(tmp_path, receiver):
    """Whoever asks for it; and one whose file went is kept all the same."""
    async with opened(tmp_path) as outbox:
        promise = await outbox.promise(lost(receiver))
        assert not await outbox.drop(promise)
        assert names(tmp_path) == [promise]
        for own in tmp_path.glob("at-*/*"):
            own.unlink()
        await outbox.post(real(receiver), over=promise)
        await gone(outbox)
    assert [post.body for post in receiver.posts] == [REAL]


async def test_cancelled_promise_is_taken_back(tmp_path, receiver):
    """Nobody has its id, so that nobody could."""
    async with opened(tmp_path) as outbox:
        for turns in range(4):
            promise = asyncio.create_task(outbox.promise(lost(receiver)))
            for _ in range(turns):
                await asyncio.sleep(0)
            promise.cancel()
            with pytest.raises(asyncio.CancelledError):
                await promise
        await when(lambda: not outbox._posts)
        assert repr(outbox) == "<Outbox 0 pending, 0 dead>"
    assert left_files(tmp_path) == []


async def test_cancelled_post_is_over_when_it_raises(tmp_path, receiver):
    """A body's file may go then; either is on disk, and never both."""
    body = tmp_path / "body"
    async with opened(tmp_path / "outbox") as outbox:
        promise = await outbox.promise(lost(receiver))
        body.write_bytes(REAL)
        post = asyncio.create_task(outbox.post(letter(receiver.url(), body=body), over=promise))
        await asyncio.sleep(0)
        post.cancel()
        with pytest.raises(asyncio.CancelledError):
            await post
        body.unlink()
        await gone(outbox)
    assert [post.body for post in receiver.posts] == [REAL]


async def test_folder_that_is_lost_is_told(tmp_path, receiver, caplog):
    """A promise that cannot be withdrawn is no reason to fail."""
    async with opened(tmp_path) as outbox:
        promise = await outbox.promise(lost(receiver))
        for own in tmp_path.glob("at-*"):
            shutil.rmtree(own)
        await outbox.withdraw(promise)
    assert f"the promise {promise} is not withdrawn" in caplog.text


async def test_no_secret_of_a_promise_is_written_or_logged(tmp_path, receiver, caplog):
    """As of any letter."""
    caplog.set_level(logging.DEBUG)
    url = receiver.url("/path-canary").replace("//", "//user:pass-canary@")
    async with opened(tmp_path) as outbox:
        await outbox.promise(letter(url, secret=SecretStr("mysecret+canary/")))
        assert not any(b"canary" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert "canary" not in caplog.text
