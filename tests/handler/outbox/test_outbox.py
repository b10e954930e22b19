"""Letters survive, whatever breaks on the way."""

from __future__ import annotations

import asyncio
import collections
import logging
import shutil
from dataclasses import replace

import outbox_process
import pytest
from posting import TERMS, died, gone, left_files, letter, opened, tried, when
from pydantic import SecretStr
from receiver import SECRET, receiving

from handler.errors import InvalidPayload, UrlNotAllowed
from handler.outbox.journal import new_id
from handler.outbox.records import OutboxFailed, OutboxFull


@pytest.fixture
async def receiver():
    async with receiving() as running:
        yield running


async def test_letter_arrives_once_and_leaves_nothing(tmp_path, receiver):
    """Signed, with its own id, and told to the listener."""
    told = []
    async with opened(tmp_path, listener=told.append) as outbox:
        posted = await outbox.post(letter(receiver.url()))
        assert await outbox.drain(5) == 0

    (post,) = receiver.posts
    post.verify()
    assert (post.id, post.body) == ("job-1", b'{"a": 1}')
    assert left_files(tmp_path) == []
    (delivery,) = told
    assert (delivery.letter.id, delivery.outcome, delivery.status) == (posted, "delivered", 200)
    assert delivery.seconds < 5


async def test_letter_is_on_disk_when_post_returns(tmp_path, receiver):
    """Before anybody has answered."""
    receiver.replies["/hook"] = ["hang"]
    async with opened(tmp_path) as outbox:
        posted = await outbox.post(letter(receiver.url()))
        assert [name.rpartition("/")[2] for name in left_files(tmp_path)] == [posted]


async def test_dead_letter_is_sent_again(tmp_path, receiver):
    """On demand, with the same id; then it is gone."""
    receiver.replies["/hook"] = [410, 200]
    async with opened(tmp_path) as outbox:
        posted = await outbox.post(letter(receiver.url(), secret=SecretStr("testsecret")))
        await died(outbox)
        assert await outbox.resend(posted)
        await gone(outbox)
        assert not await outbox.resend(posted)

    assert [post.id for post in receiver.posts] == ["job-1"] * 2
    receiver.posts[1].verify("testsecret==")
    assert left_files(tmp_path) == []


async def test_dead_letter_is_dropped(tmp_path, receiver):
    """And a pending one, too."""
    receiver.replies["/hook"] = [410]
    receiver.replies["/later"] = [(503, "Retry-After: 60\r\n")]
    async with opened(tmp_path) as outbox:
        first = await outbox.post(letter(receiver.url()))
        await died(outbox)
        second = await outbox.post(letter(receiver.url("/later")))
        await receiver.got(2)
        for posted in (first, second):
            assert await outbox.drop(posted)
            assert not await outbox.drop(posted)
        await gone(outbox)
    assert left_files(tmp_path) == []


async def test_start_tries_everything_at_once(tmp_path, receiver):
    """Although the last process was asked to wait for an hour."""
    receiver.replies["/hook"] = [(503, "Retry-After: 3600\r\n"), 200]
    terms = replace(TERMS, longest_retry_after_s=3600)
    async with opened(tmp_path, terms=terms) as outbox:
        await outbox.post(letter(receiver.url(), secret=SecretStr("testsecret")))
        await receiver.got(1)
        await tried(outbox)
    async with opened(tmp_path, terms=terms) as outbox:
        assert outbox.pending()[0].tries == 1
        await gone(outbox)
    receiver.posts[1].verify("testsecret==")
    assert left_files(tmp_path) == []


async def test_secret_that_is_gone_is_no_signature(tmp_path, receiver):
    """WEBHOOK_SECRET was changed: the letter is dead until it is set again."""
    receiver.replies["/hook"] = [500]
    async with opened(tmp_path) as outbox:
        posted = await outbox.post(letter(receiver.url(), secret=SecretStr("testsecret")))
        await receiver.got(1)
    count = len(receiver.posts)
    for secret in ("", "b3RoZXI="):
        async with opened(tmp_path, secret=secret) as outbox:
            if secret:
                assert await outbox.resend(posted)
            await died(outbox)
            (dead,) = await outbox.dead()
            assert "WEBHOOK_SECRET" in dead.said
    assert len(receiver.posts) == count
    receiver.replies["/hook"] = [200]
    async with opened(tmp_path) as outbox:
        await outbox.resend(posted)
        await gone(outbox)
    receiver.posts[-1].verify("testsecret==")


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("nonsense", None),
        ("http://127.0.0.1/", SecretStr("whsec_!")),
        ("http://127.0.0.1/", SecretStr("testsecret")),
        ("http://u:p@127.0.0.1/", None),
    ],
)
async def test_what_cannot_be_kept_is_refused(tmp_path, url, secret):
    """By the check before the job, and by the post."""
    own = SECRET if secret is not None and "!" in secret.get_secret_value() else ""
    async with opened(tmp_path, secret=own) as outbox:
        with pytest.raises(InvalidPayload):
            await outbox.check(url, secret)
        with pytest.raises(InvalidPayload):
            await outbox.post(letter(url, secret=secret))
    assert left_files(tmp_path) == []


async def test_address_policy_is_asked_before_and_at_every_try(tmp_path, receiver):
    """A name that leads elsewhere by then is not dialled."""
    async with opened(tmp_path, allow="") as outbox:
        with pytest.raises(UrlNotAllowed):
            await outbox.check(receiver.url())
        await outbox.post(letter(receiver.url()))
        await died(outbox)
        assert "public address" in (await outbox.dead())[0].said
    assert receiver.posts == []


async def test_full_outbox_refuses(tmp_path, receiver):
    """After the dead have given way."""
    receiver.replies["/gone"] = [410]
    receiver.replies["/hook"] = ["hang"]
    terms = replace(TERMS, max_letters=2, timeout_s=30)
    async with opened(tmp_path, terms=terms) as outbox:
        await outbox.post(letter(receiver.url("/gone")))
        await died(outbox)
        for number in range(2):
            await outbox.post(letter(receiver.url(), str(number)))
        assert await outbox.dead() == []
        with pytest.raises(OutboxFull):
            await outbox.post(letter(receiver.url(), "3"))
        assert len(outbox.pending()) == len(left_files(tmp_path)) == 2


async def test_dead_receiver_does_not_fill_the_outbox(tmp_path, receiver, caplog):
    """Its letters give way to promises and posts of others, and whoever listens is told."""
    receiver.replies["/hook"] = [503]
    told = []
    terms = replace(TERMS, max_letters=4, longest_wait_s=0.05)
    async with (
        opened(tmp_path, terms=terms, listener=told.append) as outbox,
        receiving() as healthy,
    ):
        promise = await outbox.promise(letter(receiver.url(), "promised"))
        for number in range(3):
            await outbox.post(letter(receiver.url(), str(number)))
        await when(lambda: all(one.tries >= 3 for one in outbox.pending()))
        for number in range(4):
            await outbox.post(letter(healthy.url(), f"healthy-{number}"))
            await healthy.got(number + 1)
            await when(lambda: len(outbox.pending()) == 2)
        assert "promised" not in {one.letter.message_id for one in told}
        given_up = [one.letter for one in told if one.outcome == "dead"]
        assert [one.message_id for one in given_up] == ["0"]
        assert given_up[0].said.startswith("the outbox is full; before: 503")
        await outbox.withdraw(promise)
        assert f"to {given_up[0].to} is dropped after" in caplog.text
        assert outbox._room.letters == len(outbox.pending()) == 2
        assert len(left_files(tmp_path)) == 2


async def test_folder_that_cannot_be_used_is_told_and_letters_arrive(tmp_path, receiver, caplog):
    """Held in memory, secrets and all; only a restart would lose them."""
    (tmp_path / "file").write_text("")
    receiver.replies["/hook"] = [500, 200]
    receiver.replies["/gone"] = [410]
    async with opened(tmp_path / "file") as outbox:
        await outbox.post(letter(receiver.url(), secret=SecretStr("testsecret")))
        await outbox.post(letter(receiver.url("/gone")))
        await gone(outbox)
        assert await outbox.dead() == []
        with pytest.raises(OutboxFailed, match="cannot be sent again: Not a directory"):
            await outbox.resend(new_id())
        assert not await outbox.drop(new_id())
        assert repr(outbox) == "<Outbox 0 pending, 0 dead>"
        assert repr(outbox._held) == "<Held 0 letters>"
    assert "File exists; webhooks will not survive a restart" in caplog.text
    receiver.posts[-1].verify("testsecret==")


async def test_disk_that_fails_loses_no_letter(tmp_path, receiver, caplog):
    """It is held in memory, unless it is too large for that."""
    receiver.replies["/hook"] = ["hang"]
    async with opened(tmp_path) as outbox:
        await outbox.post(letter(receiver.url()))
        await receiver.got(1)
        for own in tmp_path.glob("at-*"):
            shutil.rmtree(own)
        posted = await outbox.post(letter(receiver.url("/other"), "held"))
        await receiver.got(2)
        assert f"the webhook {posted} is held in memory" in caplog.text
        with pytest.raises(OutboxFailed, match="cannot be written"):
            await outbox.post(letter(receiver.url(), body=b"x" * (65 << 20)))


async def test_body_that_cannot_be_read_is_told(tmp_path, receiver):
    """By an error of ours; so is a post after the end."""
    async with opened(tmp_path / "outbox") as outbox:
        with pytest.raises(OutboxFailed, match="No such file"):
            await outbox.post(letter(receiver.url(), body=tmp_path / "none"))
        assert outbox._room.letters == 0
    with pytest.raises(OutboxFailed, match="closed"):
        await outbox.post(letter(receiver.url()))


async def test_cancelled_post_is_carried_out(tmp_path, receiver):
    """Half-posted is neither; the caller who went away has asked for it."""
    async with opened(tmp_path) as outbox:
        post = asyncio.create_task(outbox.post(letter(receiver.url())))
        await asyncio.sleep(0)
        post.cancel()
        with pytest.raises(asyncio.CancelledError):
            await post
        await receiver.got(1)


async def test_two_processes_share_a_folder(tmp_path, receiver):
    """Neither sends the other's; the one left takes over, while it runs."""
    receiver.replies["/hook"] = [(503, "Retry-After: 60\r\n"), 200]
    async with opened(tmp_path) as outbox:
        async with opened(tmp_path, terms=replace(TERMS, longest_retry_after_s=60)) as other:
            await other.post(letter(receiver.url()))
            await receiver.got(1)
            await tried(other)
            assert outbox.pending() == []
        await receiver.got(2)
        await gone(outbox)
    assert left_files(tmp_path) == []


async def test_killed_process_loses_nothing(tmp_path, receiver):
    """kill -9 with letters pending; the next start delivers each of them."""
    receiver.replies["/hook"] = [503]
    process = await asyncio.to_thread(outbox_process.start, tmp_path, receiver.url(), 25)
    await receiver.got(10)
    process.kill()
    await asyncio.to_thread(process.communicate)
    receiver.posts.clear()
    receiver.replies["/hook"] = [200]

    async with opened(tmp_path) as outbox:
        await gone(outbox)
    counts = collections.Counter(post.id for post in receiver.posts)
    assert counts == {f"job-{number}": 1 for number in range(25)}
    assert left_files(tmp_path) == []


async def test_sigterm_with_deliveries_under_way_loses_none(tmp_path, receiver):
    """Twenty of them, each arrives once before the process ends."""
    receiver.delay_s = 0.3
    process = await asyncio.to_thread(outbox_process.start, tmp_path, receiver.url(), 20)
    await receiver.got(1)
    process.terminate()
    said, _ = await asyncio.to_thread(process.communicate)

    assert (said, process.returncode) == ("left 0\n", 0)
    assert sorted(post.id for post in receiver.posts) == sorted(f"job-{n}" for n in range(20))
    assert left_files(tmp_path) == []


async def test_many_letters_leave_nothing(tmp_path, receiver):
    """2,000 of them: disk, counters and lanes are as before."""
    async with opened(tmp_path) as outbox:
        for start in range(0, 2000, 100):
            posts = [
                outbox.post(letter(receiver.url(), str(start + n), order_key=str(n % 50)))
                for n in range(100)
            ]
            await asyncio.gather(*posts)
        await gone(outbox, 40)
        assert (outbox._room.letters, outbox._room.bytes) == (0, 0)
        lanes = outbox._deliveries._lanes
        kept = (lanes._lanes, lanes._due, lanes._heap, lanes._ready, lanes._running, lanes._busy)
        assert not any(kept)
    assert len({post.id for post in receiver.posts}) == len(receiver.posts) == 2000
    assert left_files(tmp_path) == []


async def test_no_secret_is_written_or_logged(tmp_path, receiver, caplog):
    """Pending, dead, and in everything that was said meanwhile."""
    caplog.set_level(logging.DEBUG)
    receiver.replies["/path-canary?token=query-canary"] = [500, 410]
    url = receiver.url("/path-canary?token=query-canary").replace("//", "//user:pass-canary@")
    own = SecretStr("mysecret+canary/")
    folder = tmp_path / "outbox"

    def clear() -> bool:
        texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
        names = [str(path) for path in folder.rglob("*")]
        return not any(b"canary" in text for text in texts) and "canary" not in str(names)

    async with opened(folder) as outbox:
        await outbox.post(letter(url, secret=own, headers={"X": "header-canary"}))
        assert clear()
        await died(outbox)
        assert clear()
        said = f"{outbox!r} {outbox.pending()} {await outbox.dead()}"
    assert len(receiver.posts) == 2
    receiver.posts[1].verify(own.get_secret_value())
    assert "canary" not in caplog.text + said
