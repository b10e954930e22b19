"""Tries, until a letter has arrived or is dead."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import replace

import pytest
from posting import TERMS, died, gone, left_files, letter, opened, tried, when
from receiver import SECRET, receiving, self_signed

from handler.inputs.address import AddressPolicy
from handler.log_context import JobMark, current_mark
from handler.outbox.outbox import Outbox
from handler.outbox.sending import Sender


@pytest.fixture
async def receiver():
    async with receiving() as running:
        yield running


@pytest.mark.parametrize("first", [500, 503, 408, 425, 429, "hang", "drip", "cut"])
async def test_what_passes_is_tried_until_it_arrives(tmp_path, receiver, first):
    """With the same id, and signed anew."""
    receiver.replies["/hook"] = [first, first, 200]
    async with opened(tmp_path) as outbox:
        await outbox.post(letter(receiver.url()))
        await gone(outbox)
        assert await outbox.dead() == []

    assert [post.id for post in receiver.posts] == ["job-1"] * 3
    for post in receiver.posts:
        post.verify()
    assert left_files(tmp_path) == []


@pytest.mark.parametrize(("status", "tries"), [(404, 2), (400, 2), (301, 2), (410, 1)])
async def test_what_is_refused_is_among_the_dead(tmp_path, receiver, status, tries):
    """Listed with what was said; the receiver is left alone from then on."""
    receiver.replies["/hook"] = [status]
    told = []
    async with opened(tmp_path, listener=told.append) as outbox:
        await outbox.post(letter(receiver.url()))
        await died(outbox)
        (dead,) = await outbox.dead()
        assert (dead.tries, dead.dead, dead.message_id) == (tries, True, "job-1")
        assert dead.said.startswith(str(status))
        assert outbox.pending() == []
        assert repr(outbox) == "<Outbox 0 pending, 1 dead>"
    assert len(receiver.posts) == tries
    assert told[-1].outcome == "dead"


async def test_retry_after_is_heeded(tmp_path, receiver):
    """Seconds, as most receivers say it."""
    receiver.replies["/hook"] = [(429, "Retry-After: 1\r\n"), 200]
    async with opened(tmp_path) as outbox:
        await outbox.post(letter(receiver.url()))
        first, second = await receiver.got(2)
    assert second.at - first.at >= 1


async def test_old_letter_is_given_up(tmp_path, receiver):
    """After WEBHOOK_MAX_AGE_S, with one try at the very end."""
    receiver.replies["/hook"] = [500]
    async with opened(tmp_path, terms=replace(TERMS, max_age_s=0.3)) as outbox:
        await outbox.post(letter(receiver.url()))
        await died(outbox)
        (dead,) = await outbox.dead()
    assert dead.tries > 2


async def test_letters_of_a_job_arrive_in_order(tmp_path, receiver):
    """Though the first needs three tries; letters of other jobs do not wait."""
    receiver.replies["/first"] = [500, 500, 200]
    async with opened(tmp_path) as outbox:
        await outbox.post(letter(receiver.url("/first"), "a", order_key="job"))
        await outbox.post(letter(receiver.url(), "b", order_key="job"))
        await outbox.post(letter(receiver.url(), "c", order_key="job"))
        await outbox.post(letter(receiver.url(), "other"))
        await gone(outbox)

    ids = [post.id for post in receiver.posts]
    assert [one for one in ids if one != "other"] == ["a", "a", "a", "b", "c"]
    assert ids.index("other") < ids.index("b")


async def test_dead_letter_does_not_hold_the_next_of_its_job(tmp_path, receiver):
    """It is given up, not the job."""
    receiver.replies["/gone"] = [410]
    async with opened(tmp_path) as outbox:
        await outbox.post(letter(receiver.url("/gone"), "a", order_key="job"))
        await outbox.post(letter(receiver.url(), "b", order_key="job"))
        await gone(outbox)
    assert [post.id for post in receiver.posts] == ["a", "b"]


async def test_dead_receiver_does_not_hold_the_others(tmp_path, receiver):
    """Each host has its own part of the connections."""
    receiver.replies["/hook"] = ["hang"]
    terms = replace(TERMS, timeout_s=30, most_a_host=3)
    async with opened(tmp_path, terms=terms) as outbox, receiving() as alive:
        for number in range(20):
            await outbox.post(letter(receiver.url(), f"dead-{number}"))
        await receiver.got(3)
        await outbox.post(letter(alive.url(), "alive"))
        await alive.got(1)
        assert (receiver.open, receiver.most_open) == (3, 3)


async def test_connections_are_bounded(tmp_path, receiver):
    """However many letters are pending."""
    receiver.delay_s = 0.01
    async with opened(tmp_path, terms=replace(TERMS, most=4)) as outbox:
        for number in range(30):
            await outbox.post(letter(receiver.url(), str(number)))
        await gone(outbox)
    assert receiver.most_open <= 5  # one may hang up while the next one is there
    assert len({post.id for post in receiver.posts}) == len(receiver.posts) == 30


async def test_receiver_without_a_good_certificate_gets_it_once_it_has_one(tmp_path):
    """A TLS fault passes, like a refused connection."""
    chain, key = self_signed(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(chain, key)
    folder = tmp_path / "outbox"
    async with receiving(server) as receiver:
        async with opened(folder) as outbox:
            await outbox.post(letter(receiver.url()))
            await tried(outbox, 2)
            assert "certificate" in outbox.pending()[0].said
        trusting = Sender(
            AddressPolicy("127.0.0.1"),
            secret=SECRET,
            verify=ssl.create_default_context(cafile=chain),
        )
        again = Outbox(folder, trusting, secret=SECRET, terms=TERMS)
        await again.open()
        assert await again.drain(5) == 0
        await again.close()
        receiver.posts[0].verify()


async def test_unreachable_receiver_is_no_matter(tmp_path, receiver, caplog):
    """One line of warning, then silence; what is pending is there to be seen."""
    url = receiver.url(host="127.0.0.3")
    async with opened(tmp_path) as outbox:
        await outbox.post(letter(url))
        await tried(outbox, 3)
        (pending,) = outbox.pending()
    assert "ConnectError" in pending.said
    assert [r.levelname for r in caplog.records].count("WARNING") == 1


async def test_drain_does_not_use_up_the_tries(tmp_path, receiver):
    """What fails in a hurry is for the next start, unless the receiver is gone."""
    receiver.replies["/hook"] = [404]
    receiver.replies["/gone"] = [410]
    async with opened(tmp_path, terms=replace(TERMS, refusal_wait_s=60)) as outbox:
        await outbox.post(letter(receiver.url(), "a"))
        await outbox.post(letter(receiver.url("/gone"), "b"))
        assert await outbox.drain(5) == 1
        assert [one.message_id for one in await outbox.dead()] == ["b"]
    receiver.replies["/hook"] = [200]
    async with opened(tmp_path) as outbox:
        await gone(outbox)
    assert receiver.posts[-1].id == "a"


async def test_what_was_answered_is_removed_although_the_end_comes(tmp_path, receiver):
    """The next start must not send it once more."""
    closing = []

    def clock():
        if receiver.posts and not closing:  # read between the answer and the removal
            closing.append(asyncio.create_task(outbox.close()))
        return time.time()

    async with opened(tmp_path, clock=clock) as outbox:
        await outbox.post(letter(receiver.url()))
        await when(lambda: closing)
        await closing[0]
    assert left_files(tmp_path) == []


async def test_drain_ends_in_time(tmp_path, receiver):
    """What is left stays on disk."""
    receiver.replies["/hook"] = ["hang"]
    async with opened(tmp_path, terms=replace(TERMS, timeout_s=30)) as outbox:
        await outbox.post(letter(receiver.url()))
        assert await outbox.drain(0.1) == 1
    assert len(left_files(tmp_path)) == 1


async def test_drain_does_not_wait_for_what_cannot_come(tmp_path, receiver):
    """The receiver asked for an hour: it is asked once more, and the letter is left."""
    receiver.replies["/hook"] = [(429, "Retry-After: 3600\r\n")]
    terms = replace(TERMS, longest_retry_after_s=3600)
    async with opened(tmp_path, terms=terms) as outbox:
        await outbox.post(letter(receiver.url()))
        await tried(outbox)
        async with asyncio.timeout(10):
            assert await outbox.drain(3000) == 1
    assert len(receiver.posts) == 2


async def test_a_receiver_that_is_down_does_not_cost_the_whole_drain(tmp_path, receiver):
    """After some tries the letter is left for the next start, which delivers it."""
    receiver.replies["/hook"] = [503]
    terms = replace(TERMS, hurried_wait_s=0.01, hurried_tries=3)
    async with opened(tmp_path, terms=terms) as outbox:
        await outbox.post(letter(receiver.url(), "a"))
        await outbox.post(letter(receiver.url("/well"), "b"))
        await tried(outbox)
        before = sum(post.id == "a" for post in receiver.posts)
        async with asyncio.timeout(10):
            assert await outbox.drain(3000) == 1
        assert sum(post.id == "a" for post in receiver.posts) <= before + 4  # one was under way
    receiver.replies["/hook"] = [200]
    async with opened(tmp_path) as outbox:
        await gone(outbox)
    assert [post.id for post in receiver.posts][-1] == "a"


async def test_fault_of_the_listener_costs_no_letter(tmp_path, receiver, caplog):
    """It is logged."""

    def listener(delivery):
        raise ValueError("mine")

    async with opened(tmp_path, listener=listener) as outbox:
        for number in range(2):
            await outbox.post(letter(receiver.url(), str(number)))
        await gone(outbox)
    assert sorted(post.id for post in receiver.posts) == ["0", "1"]
    assert "the listener is at fault" in caplog.text


async def test_fault_of_ours_is_a_try_like_any_other(tmp_path, receiver, caplog):
    """It is logged, and does not stop anything else."""

    class Faulty(Sender):
        async def send(self, letter, opened):
            if letter.message_id == "bad":
                raise RuntimeError("ours")
            return await super().send(letter, opened)

    sender = Faulty(AddressPolicy("127.0.0.1"), secret=SECRET)
    outbox = Outbox(tmp_path, sender, terms=replace(TERMS, retries=1))
    await outbox.open()
    await outbox.post(letter(receiver.url(), "bad"))
    await outbox.post(letter(receiver.url(), "good"))
    await gone(outbox)
    assert [one.said for one in await outbox.dead()] == ["a fault of ours: RuntimeError"]
    await outbox.close()
    await outbox.close()
    assert [post.id for post in receiver.posts] == ["good"]
    assert caplog.text.count("a fault of ours") >= 2


async def test_log_of_a_try_is_of_its_job_and_trace(tmp_path, receiver):
    """Also of letters of an earlier life: the header that is passed on says it."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    marks = []
    async with opened(tmp_path, listener=lambda _: marks.append(current_mark())) as outbox:
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        await outbox.post(letter(receiver.url(), headers=headers))
        await outbox.post(letter(receiver.url(), "job-2"))
        await gone(outbox)
        await when(lambda: len(marks) == 2)
    assert set(marks) == {JobMark("job-1", trace), JobMark("job-2")}


async def test_letter_whose_tries_a_drain_used_up_is_not_told_as_given_up(tmp_path, receiver):
    """The next start tries it again."""
    receiver.replies["/hook"] = [503, 503, 200]
    told = []
    terms = replace(TERMS, retries=1, first_wait_s=60, longest_wait_s=60)
    async with opened(tmp_path, terms=terms, listener=told.append) as outbox:
        await outbox.post(letter(receiver.url()))
        await tried(outbox)
        assert await outbox.drain(5) == 1
    async with opened(tmp_path, terms=terms, listener=told.append) as outbox:
        await gone(outbox)
        await when(lambda: len(told) == 3)
    assert [one.outcome for one in told] == ["again", "again", "delivered"]
