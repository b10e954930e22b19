"""What `GET /jobs/{id}` tells of webhooks, from the promise to the last try."""

from __future__ import annotations

import asyncio

import pytest
from receiver import SECRET, receiving
from worker import GRAPH, until, worker

from handler.build import build_ledger
from handler.engine.events import Failed, Started
from handler.identity import Identity
from handler.job import Job, JobBoard
from handler.outbox.records import Delivery, Posted
from handler.settings import Settings
from handler.state.records import JobRecord
from handler.webhook_notes import WebhookNotes, awaited, lost, noted, settled

HERE = Settings(url_allow_hosts="127.0.0.1", webhook_secret=SECRET)
PAYLOAD = {"prompt": GRAPH, "id": "mine"}


def tried(outcome, number=None, tries=1, said="404 Not Found"):
    """Give what came of a try; with a number, of a post of the older form."""
    letter = Posted(
        id="1",
        message_id="mine" if number is None else f"mine-{number}",
        kind="x",
        order_key="u",
        to="http://e.org",
        signed=number is None,
        bytes=1,
        created=0,
        since=0,
        tries=tries,
        said=said,
    )
    return Delivery(letter, outcome, None, 0.1)


def test_one_post_is_pending_until_its_end():
    """Delivered, or given up and why; and what was given up may be sent again."""
    notes = awaited(["webhook_v2"])
    assert notes == {"webhook_v2": {"status": "pending", "tries": 0}}
    notes = settled(notes, {"webhook_v2": "posted"}, 1)
    notes = noted(notes, tried("again"))
    assert notes == {"webhook_v2": {"status": "pending", "tries": 1}}
    notes = noted(notes, tried("dead", tries=2))
    assert notes == {"webhook_v2": {"status": "given up: 404 Not Found", "tries": 2}}
    notes = noted(noted(notes, tried("again", tries=1)), tried("delivered", tries=2))
    assert notes == {"webhook_v2": {"status": "delivered", "tries": 2}}


def test_a_post_may_arrive_before_all_is_posted():
    """What came of it stays."""
    notes = noted(awaited(["webhook_v2"]), tried("delivered"))
    assert settled(notes, {"webhook_v2": "posted"}, 3)["webhook_v2"]["status"] == "delivered"


@pytest.mark.parametrize("early", [0, 1, 3])
def test_several_posts_are_delivered_with_the_last(early):
    """However many of them arrive before it is known how many there are; any try counts once."""
    notes = awaited(["webhook"])
    for number in range(1, 4):
        if number == early + 1:
            notes = settled(notes, {"webhook": "posted"}, 3)
        if number > 1 and early < number:
            assert notes["webhook"]["status"] == "pending"
        for _ in range(2):
            notes = noted(notes, tried("delivered", number))
    notes = settled(notes, {"webhook": "posted"}, 3)
    assert notes["webhook"] == {
        "status": "delivered",
        "tries": 1,
        "posts": 3,
        "delivered": [1, 2, 3],
        "given_up": [],
    }


def test_one_of_several_that_is_given_up_decides():
    """Until it is sent again."""
    notes = settled(awaited(["webhook"]), {"webhook": "posted"}, 2)
    notes = noted(noted(notes, tried("dead", 1)), tried("delivered", 2))
    entry = notes["webhook"]
    assert (entry["status"], entry["given_up"]) == ("given up: 404 Not Found", [1])
    notes = noted(notes, tried("delivered", 1))
    assert (notes["webhook"]["status"], notes["webhook"]["given_up"]) == ("delivered", [])


def test_what_could_not_be_posted_stays_lost():
    """The post that tells so is another one. Who has nothing to be told is told nothing."""
    told = {"webhook": lost("outbox_full"), "webhook_v2": "posted"}
    notes = settled(awaited(["webhook", "webhook_v2"]), told, 1)
    assert noted(notes, tried("delivered", 0))["webhook"]["status"] == "lost: outbox_full"
    assert settled({}, {"webhook": "posted"}, 0)["webhook"]["status"] == "nothing to tell"
    assert settled(notes, {"webhook_v2": "posted"}, 1).keys() == {"webhook_v2"}  # of a failure


def test_a_job_of_an_earlier_life_has_a_record_only():
    """Its post is noted there; of one that nobody counted, by what came of it."""
    changes = []
    notes = WebhookNotes(JobBoard(60), lambda *change: changes.append(change))
    notes.take(tried("again"))
    notes.take(tried("delivered", 0))
    ((job_id, uid, change),) = changes
    assert (job_id, uid) == ("mine", "u")
    changed = change(JobRecord(id="mine", uid="u", instance="i", created=1.0, phase="failed"))
    assert changed.webhooks["webhook"]["status"] == "delivered"


def test_a_job_under_way_is_noted_in_memory():
    """Its end is written anyway."""
    changes, jobs = [], JobBoard(60)
    job = Job(uid="u", id="mine", webhooks=awaited(["webhook_v2"]))
    jobs.add(job)
    notes = WebhookNotes(jobs, lambda *change: changes.append(change))
    notes.take(tried("delivered"))
    assert (job.public()["webhooks"]["webhook_v2"]["status"], changes) == ("delivered", [])


@pytest.mark.parametrize(("count", "status"), [(1, "delivered"), (2, "pending")])
def test_the_first_of_an_unknown_number_is_not_all(count, status):
    """It arrives before the others are posted."""
    jobs = JobBoard(60)
    job = Job(uid="u", id="mine", webhooks=awaited(["webhook"]))
    jobs.add(job)
    WebhookNotes(jobs, lambda *_: None).take(tried("delivered", 1))
    assert job.webhooks["webhook"]["status"] == "pending"
    assert settled(job.webhooks, {"webhook": "posted"}, count)["webhook"]["status"] == status


async def recorded(handler):
    """Give what the record on disk says of the webhook."""
    await handler._ledger.flush()
    state = await handler._ledger.opened()
    await state.recorder.drain()
    return (await state.store.read("mine")).record.webhooks.get("webhook_v2")


@pytest.mark.parametrize("fails", [False, True])
async def test_a_given_up_post_is_told_by_job_and_record(tmp_path, fails):
    """However the job ended; `GET /jobs/{id}` said pending until then."""

    async def failing(prompt, files):
        yield Started(1)
        yield Failed("2", "SaveImage", "ValueError", "too small", ("line",))

    engine = {"script": failing} if fails else {}
    async with receiving() as receiver, worker(tmp_path, HERE, **engine) as (handler, _):
        receiver.replies["/hook"] = [410]
        receiver.delay_s = 0.3
        await handler.enter({**PAYLOAD, "webhook_v2": receiver.url()})
        await receiver.got(1)
        public = await handler.stored.public("mine")
        assert public["webhooks"] == {"webhook_v2": {"status": "pending", "tries": 0}}
        job = handler.find("mine")
        await until(lambda: job.webhooks["webhook_v2"]["tries"])
        wanted = job.webhooks["webhook_v2"]
        assert (wanted["status"].strip(), wanted["tries"]) == ("given up: 410", 1)
        assert (await handler.stored.public("mine"))["webhooks"] == {"webhook_v2": wanted}
        assert await recorded(handler) == wanted
    async with worker(tmp_path, HERE) as (handler, _):
        assert (await handler.stored.public("mine"))["webhooks"] == {"webhook_v2": wanted}


async def test_a_post_of_an_earlier_life_is_noted_in_its_record(tmp_path):
    """The next start delivers it, and the record says so."""
    async with receiving() as receiver:
        receiver.replies["/hook"] = [503]
        async with worker(tmp_path, HERE) as (handler, _):
            await handler.enter({**PAYLOAD, "webhook_v2": receiver.url()})
            await receiver.got(1)
        receiver.replies["/hook"] = [200]
        async with worker(tmp_path, HERE) as (handler, _):
            await until(lambda: receiver.taken)
            async with asyncio.timeout(10):
                while (await recorded(handler))["status"] == "pending":
                    await asyncio.sleep(0.01)
            assert (await recorded(handler))["status"] == "delivered"
            public = await handler.stored.public("mine")
            assert public["webhooks"]["webhook_v2"]["status"] == "delivered"


async def test_a_state_that_is_away_hurts_no_delivery(tmp_path, caplog):
    """The post arrives, and its letter goes; the note is written when the place is back."""
    async with receiving() as receiver, worker(tmp_path, HERE) as (handler, _):
        receiver.delay_s = 0.3
        await handler.enter({**PAYLOAD, "webhook_v2": receiver.url()})
        await receiver.got(1)
        await handler._ledger.flush()
        aside = tmp_path / "state" / "jobs" / ".aside"
        aside.rename(tmp_path / "away")
        job = handler.find("mine")
        await until(lambda: job.webhooks["webhook_v2"]["status"] == "delivered")
        await until(lambda: handler._endings._webhooks._outbox.pending() == [])
        await until(lambda: "the record of job mine waits" in caplog.text)
        (tmp_path / "away").rename(aside)
        assert (await recorded(handler))["status"] == "delivered"


async def test_notes_taken_before_the_place_is_open_are_written(tmp_path):
    """An earlier life's posts are tried before the engine has booted."""
    settings = Settings(state_dir=tmp_path / "state")
    for life in range(2):
        ledger = build_ledger(settings, Identity("worker-1"))
        if life == 0:
            job = Job(uid="u", id="mine", asynchronous=True)
            await ledger.enter(job)
            job.succeed([])
            ledger.end(job)
        else:
            WebhookNotes(JobBoard(60), ledger.note).take(tried("delivered"))
            await until(lambda: ledger._state is not None)  # noqa: B023
            await until(lambda: not repr(ledger._state.recorder).startswith("<Recorder 1"))  # noqa: B023
            record = await ledger.find("mine")
            assert record.webhooks == {"webhook_v2": {"status": "delivered", "tries": 1}}
        await ledger.close()
