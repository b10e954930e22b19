"""What is remembered of jobs: when it is written, what is found, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

import pytest
from places import KEYS, bucket_server, in_bucket, in_directory, opened
from running import Gate
from worker import GRAPH, until, worker

from handler.build import build_ledger
from handler.errors import HandlerError, NotReady, StateUnavailable
from handler.health import Health
from handler.identity import Identity
from handler.job import Job, Phase
from handler.ledger import RECORD_AFTER_S, Ledger
from handler.records import Output
from handler.settings import Settings
from handler.state.behind import MOST_UNWRITTEN
from handler.submission import Submission

PAYLOAD = {"prompt": GRAPH, "id": "mine"}
KEYED = Submission(key="http:k")


class Counting:
    """A place that counts what it is asked."""

    def __init__(self, blobs):
        self._blobs, self.calls = blobs, []

    def __getattr__(self, name):
        self.calls.append(name)
        return getattr(self._blobs, name)


class Relay:
    """A way to a server, which can be made silent."""

    def __init__(self, endpoint):
        host, port = endpoint.removeprefix("http://").split(":")
        self._to, self._tasks = (host, int(port)), set()
        self._writers = []
        self.silent = asyncio.Event()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        await self.hang_up()

    async def hang_up(self):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*(w.wait_closed() for w in self._writers), return_exceptions=True)

    def _accept(self, reader, writer):
        self._writers.append(writer)
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            there, back = await asyncio.open_connection(*self._to)
            self._writers.append(back)
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, reader, writer):
        while block := await reader.read(1 << 16):
            if self.silent.is_set():
                await asyncio.Event().wait()
            writer.write(block)
            await writer.drain()
        writer.close()


def ledger_in(home, **settings):
    made = replace(Settings(**settings), state_dir=home / "state")
    return build_ledger(made, Identity("here"))


@contextlib.asynccontextmanager
async def a_ledger(home, **settings):
    """Give a ledger whose place is open."""
    ledger = ledger_in(home, **settings)
    await ledger.opened()
    try:
        yield ledger
    finally:
        await ledger.close()


def a_job(number=0, job_id=None, **facts):
    return Job(uid=f"{number:032x}", id=job_id or f"job-{number}", digest="d", **facts)


def picture(folder, name="a.png", data=b"picture"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    return Output("1", "t", "image", "image/png", name, len(data), "00", path)


def a_text(text):
    return Output("1", "t", "text", "text/plain", "1.txt", len(text.encode()), "00", text=text)


# -- short jobs -----------------------------------------------------------------------------------


async def test_a_short_job_costs_no_disk_before_its_answer(tmp_path):
    """Nothing of the place is asked for it; its record is there within a second."""
    async with worker(tmp_path) as (handler, _):
        state = await handler._ledger.opened()
        await (await handler.handle({**PAYLOAD, "id": "first"})).close()
        await handler._ledger.flush()
        state.store.blobs = counting = Counting(state.store.blobs)
        async with await handler.handle(PAYLOAD):
            assert counting.calls == []
        begun = time.monotonic()
        while await state.store.read("mine") is None:
            await asyncio.sleep(0.005)
        assert time.monotonic() - begun < 4
        record = (await state.store.read("mine")).record
        assert (record.phase, len(record.outputs)) == ("succeeded", 1)


async def test_a_flood_of_short_jobs_leaves_bounded_memory(tmp_path):
    """The newest are written, and nothing else is held of any."""
    async with a_ledger(tmp_path) as ledger:
        for number in range(2000):
            job = a_job(number)
            ledger.follow(job)
            job.succeed([])
            ledger.end(job)
        assert len(ledger._behind) <= MOST_UNWRITTEN
        assert (ledger._timers, ledger._begun, ledger._late) == ({}, {}, set())
        await ledger.flush(20)
        assert len(ledger._behind) == 0
        assert (await ledger.find("job-1999")).phase == "succeeded"


async def test_what_is_not_written_yet_is_written_at_the_end(tmp_path):
    """A stop right after a flood forgets none of the newest."""
    async with a_ledger(tmp_path) as ledger:
        for number in range(50):
            job = a_job(number)
            ledger.follow(job)
            job.succeed([])
            ledger.end(job)
    async with a_ledger(tmp_path) as ledger:
        page = await ledger.page(lambda _: True, None, 200)
        assert len(page.records) == 50


async def test_a_job_that_lasts_has_its_record_while_it_runs(tmp_path):
    """And its events, those before the record included."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, _):
        call = asyncio.create_task(handler.handle(PAYLOAD))
        await until(lambda: gate.begun)
        begun = time.monotonic()
        while await handler._ledger.find("mine") is None:
            await asyncio.sleep(0.005)
        assert time.monotonic() - begun < RECORD_AFTER_S + 2
        assert not (await handler._ledger.find("mine")).final
        gate.open.set()
        await (await call).close()
        await handler._ledger.flush()
        job, record = handler.find("mine"), await handler._ledger.find("mine")
        assert (record.phase, record.uid) == ("succeeded", job.uid)
        logged = await handler._ledger.logged(job.uid, 0)
        assert [one.type for one in logged if one.type == "phase"]
        assert logged[-1].type == "succeeded"


async def test_a_list_of_jobs_has_those_that_have_just_begun(tmp_path):
    """Also where who asks goes away in the middle."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, _):
        call = asyncio.create_task(handler.handle(PAYLOAD))
        await until(lambda: gate.begun)
        asking = asyncio.create_task(handler._ledger.page(lambda _: True, None, 9))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        page = await handler._ledger.page(lambda _: True, None, 9)
        assert [record.id for record in page.records] == ["mine"]
        gate.open.set()
        await (await call).close()
        await handler._ledger.flush()
        assert (await handler._ledger.find("mine")).final


async def test_an_old_run_does_not_take_the_place_of_a_newer_one(tmp_path):
    """Of the same id; it is written later, and came earlier."""
    async with a_ledger(tmp_path) as ledger:
        old, new = a_job(1, "x"), a_job(2, "x", asynchronous=True)
        ledger.follow(old)
        new.created_at = old.created_at + 1
        await ledger.enter(new)
        old.succeed([])
        ledger.end(old)
        await ledger.flush()
        assert (await ledger.find("x")).uid == new.uid
        new.succeed([])
        ledger.end(new)
        await ledger.flush()
        assert (await ledger.find("x")).uid == new.uid


async def test_jobs_that_came_before_the_place_was_open_are_written(tmp_path):
    """The engine may boot faster than the disk."""
    ledger = ledger_in(tmp_path)
    job = a_job()
    ledger.follow(job)
    job.succeed([a_text("hello")])
    ledger.end(job)
    try:
        assert (await ledger.find("job-0")).outputs[0].facts["text"] == "hello"
    finally:
        await ledger.close()


# -- outputs --------------------------------------------------------------------------------------


async def test_kept_outputs_are_named_in_the_record(tmp_path):
    """Files and texts; one that was uploaded is where its URL says."""
    async with a_ledger(tmp_path) as ledger:
        job = a_job(asynchronous=True)
        await ledger.enter(job)
        outputs = [
            picture(tmp_path / "one"),
            picture(tmp_path / "two", data=b"other"),
            a_text("x" * 9000),
            replace(picture(tmp_path / "three"), url="https://a.test/a.png"),
        ]
        await ledger.keep(job, outputs, tmp_path / "texts")
        job.succeed(outputs)
        ledger.end(job)
        await ledger.flush()
        record = await ledger.find("job-0")
        assert [one.name for one in record.outputs] == ["a.png", "a-2.png", "1.txt", ""]
        assert [one.kept for one in record.outputs] == [True, True, True, False]
        state = await ledger.opened()
        with state.kept.open_now(job.uid, "a-2.png") as file:
            assert file.read() == b"other"
        assert len(record.outputs[2].facts["text"]) < 9000


async def test_outputs_that_cannot_be_kept_fail_no_job(tmp_path, caplog):
    """The file is gone: the log says so, and the answer is as good as before."""
    async with a_ledger(tmp_path) as ledger:
        job, output = a_job(), picture(tmp_path / "one")
        output.path.unlink()
        await ledger.keep(job, [output], tmp_path / "texts")
        job.succeed([output])
        assert job.kept == ("",)
    assert "are not kept" in caplog.text


# -- the place ------------------------------------------------------------------------------------


async def test_a_ledger_of_nothing_remembers_nothing():
    """Every question has an answer."""
    ledger = Ledger(instance="here")
    job = a_job()
    ledger.follow(job)
    ledger.end(job)
    assert not ledger.remembers
    assert await ledger.enter(job) is None
    assert await ledger.find("job-0") is None
    assert (await ledger.record_of(job)).id == "job-0"
    assert await ledger.logged(job.uid, 0) == []
    assert await ledger.page(lambda _: True, None, 9) is None
    assert "memory only" in ledger.unknown("x").hint
    assert ledger.instance == "here"
    with pytest.raises(StateUnavailable):
        await ledger.enter(a_job(key="http:k"))
    await ledger.flush()
    await ledger.close()


async def test_a_shared_place_that_is_not_there_makes_the_worker_unhealthy(tmp_path):
    """With the reason, for who asks and for every job."""
    (tmp_path / "common").write_text("no folder")
    async with worker(tmp_path, in_directory(tmp_path), start=False) as (handler, _):
        with pytest.raises(StateUnavailable) as caught:
            await handler.start()
        report = handler.health()
        assert (report.health, report.ready) == (Health.UNHEALTHY, False)
        assert report.reason == caught.value.message
        with pytest.raises(NotReady, match="unhealthy"):
            await handler.enter(PAYLOAD)


async def test_a_place_that_breaks_off_harms_no_plain_job(tmp_path, caplog):
    """A local disk that fails later: jobs run, keys are refused."""
    async with worker(tmp_path) as (handler, _):
        aside = tmp_path / "state" / "jobs" / ".aside"
        aside.rename(tmp_path / "away")
        aside.write_text("no folder")
        for _ in range(3):
            await (await handler.handle(PAYLOAD)).close()
        with pytest.raises(StateUnavailable):
            await handler.enter(PAYLOAD, KEYED)
        await handler._ledger.flush()
        aside.unlink()
        (tmp_path / "away").rename(aside)
        await (await handler.handle(PAYLOAD, KEYED)).close()
    assert "is not recorded" in caplog.text


@pytest.fixture(scope="module")
def endpoint():
    """A store that speaks S3."""
    with bucket_server() as url:
        yield url


async def test_a_silent_bucket_does_not_hold_up_the_stop(tmp_path, endpoint, monkeypatch):
    """With a job under way and records to be written."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    gate = Gate()
    async with (
        Relay(endpoint) as relay,
        worker(tmp_path, in_bucket(relay.url), script=gate) as (handler, _),
    ):
        call = asyncio.create_task(handler.handle(PAYLOAD, KEYED))
        await until(lambda: gate.begun)
        relay.silent.set()
        gate.open.set()
        call.add_done_callback(lambda done: done.exception())
        begun = time.monotonic()
        await handler.stop()
        assert time.monotonic() - begun < 10
        assert call.done()


async def test_plain_jobs_run_while_the_bucket_is_down(tmp_path, endpoint, monkeypatch):
    """The first waits for it a little, those after it do not; a key is refused."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    async with (
        Relay(endpoint) as relay,
        worker(tmp_path, in_bucket(relay.url)) as (handler, engine),
    ):
        await relay.hang_up()
        await (await handler.handle(PAYLOAD)).close()
        assert handler._ledger.away
        begun = time.monotonic()
        await (await handler.handle(PAYLOAD)).close()
        assert time.monotonic() - begun < 1
        with pytest.raises(StateUnavailable):
            await handler.enter(PAYLOAD, KEYED)
        with pytest.raises(StateUnavailable):
            await handler.enter(PAYLOAD, Submission(respond_async=True))
        assert len(engine.prompts) == 2
        assert handler.health().ready


# -- who else is there ----------------------------------------------------------------------------


async def test_an_order_to_cancel_waits_for_a_job_that_is_being_entered(tmp_path):
    """It is taken away once it is heeded, or nobody is there to heed it."""
    settings = in_directory(tmp_path)
    cancelled = []
    async with a_ledger(tmp_path / "a", state_url=settings.state_url) as ledger:
        heeds = False

        def cancel(job_id):
            cancelled.append(job_id)
            return heeds

        ledger.cancel = cancel
        job, state = a_job(), await ledger.opened()
        await ledger.enter(job)
        async with opened(settings, tmp_path / "b") as other:
            record = (await other.store.read(job.id)).record
            await ledger.ask_to_cancel(record)
            await ledger.ask_to_cancel(replace(record, uid="f" * 32))
        await until(lambda: cancelled)
        folder = f"cancels/{state.instance.id}/"
        assert f"{folder}{job.uid}" in state.store.blobs.names(folder)
        heeds = True
        await until(lambda: state.store.blobs.names(folder) == [])
        job.fail(HandlerError("over"))
        ledger.end(job)


async def test_the_end_of_a_lost_worker_is_the_last_event(tmp_path):
    """It has no number of its own; the next one is given to it, the same at every reconnect."""
    async with opened(Settings(), tmp_path) as state:
        job = a_job()
        record = replace(
            await Ledger(instance=state.instance.id).record_of(job), instance=state.instance.id
        )
        await state.admission.enter(record)
        event = {"seq": 4, "type": "phase", "data": {"phase": "running"}}
        await state.store.update(record.id, record.uid, lambda one: one.told(event))
    async with a_ledger(tmp_path) as ledger:
        record = await ledger.find("job-0")
        told = [event async for event in ledger.events(record, 0)]
        assert [(event.seq, event.type) for event in told] == [(4, "phase"), (5, "failed")]
        assert [event.seq async for event in ledger.events(record, 4)] == [5]
        assert [event async for event in ledger.events(record, 5)] == []


async def test_followers_of_a_run_whose_place_was_taken_are_let_go(tmp_path):
    """Nothing more is to be told of it."""
    async with a_ledger(tmp_path) as ledger:
        first, second = a_job(1, "x"), a_job(2, "x")
        await ledger.enter(first)
        record = await ledger.find("x")

        async def follow():
            return [event.type async for event in ledger.events(record, 0)]

        following = asyncio.create_task(follow())
        await asyncio.sleep(0)
        first.enter(Phase.SUCCEEDED)
        ledger.end(first)
        await ledger.flush()
        await ledger.enter(second)
        async with asyncio.timeout(10):
            assert await following in ([], ["succeeded"])
        second.enter(Phase.SUCCEEDED)
        ledger.end(second)
