"""The uploads of one job, at several targets at once."""

from __future__ import annotations

import asyncio
import logging

import pytest

from handler.delivery.base import PutFailed, Stored
from handler.delivery.delivery import Delivery, Limits
from handler.errors import HandlerError, InvalidPayload, UploadFailed, UrlNotAllowed
from handler.metrics import Metrics
from handler.records import Output
from handler.targets import Targets

SECRET = "canary4711secret"
QUICK = Limits(tries=3, backoff_s=0.001, longest_backoff_s=0.01)


class Shelf:
    """An uploader that keeps files in memory, and refuses when told to."""

    def __init__(self, kind="s3", *, own=False, waits=False):
        self.kind = kind
        self.own_credentials = own
        self.waits = waits
        self.secrets = (SECRET,)
        self.files = {}
        self.items = []
        self.faults = []
        self.gate = None
        self.now = self.most = 0
        self.closed = False

    def location(self, key):
        return f"{self.kind}://shelf/{key}"

    async def check(self):
        """Nothing to look at."""

    async def put(self, item, progress):
        self.items.append(item)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(0)
            if self.faults:
                raise self.faults.pop(0)
            self.files[item.key] = item.path.read_bytes()
            progress(item.size)
            return Stored(self.location(item.key) + f"?sig={SECRET}", self.location(item.key), "e")
        finally:
            self.now -= 1

    async def close(self):
        self.closed = True


class Ledger(Shelf):
    """One whose files appear by a commit."""

    def __init__(self):
        super().__init__("hf_upload")
        self.staged = []
        self.commits = []

    async def stage(self, item, progress):
        if self.faults:
            raise self.faults.pop(0)
        self.staged.append(item.key)
        progress(item.size)

    async def commit(self, items):
        self.commits.append([item.key for item in items])
        if len(self.commits) == 1:
            raise PutFailed("another commit came between", passing=True)
        return [Stored(f"https://hub/{item.key}", f"https://hub/{item.key}") for item in items]


def delivery(
    *uploaders,
    limits=QUICK,
    gate=16,
    on_progress=None,
    on_stored=None,
    kept_s=0,
    metrics=None,
    **fields,
):
    target = Targets.model_validate({"s3": {"bucket": "bkt", "prefix": "p/", **fields}}).s3
    return Delivery(
        [(target, uploader) for uploader in uploaders],
        "job-1",
        gate=asyncio.Semaphore(gate) if isinstance(gate, int) else gate,
        limits=limits,
        on_progress=on_progress,
        on_stored=on_stored,
        kept_s=kept_s,
        metrics=metrics,
    )


async def test_every_output_goes_to_every_target(output):
    """Results are by output, in the order of the targets; a text is no file."""
    a, b = output("a.png"), output("b.mp4")
    text = Output("3", "", "text", "text/plain", "3_0.txt", 2, "", text="hi")
    first, second = Shelf("s3"), Shelf("http_upload")

    async with delivery(first, second) as job:
        results = await job.finish([a, text, b])

    assert (
        first.files
        == second.files
        == {
            "p/a.png": a.path.read_bytes(),
            "p/b.mp4": b.path.read_bytes(),
        }
    )
    assert [[one.target for one in parts] for parts in results] == [
        ["s3", "http_upload"],
        [],
        ["s3", "http_upload"],
    ]
    assert results[0][1].url == f"http_upload://shelf/p/a.png?sig={SECRET}"
    assert results[0][0].bytes == a.bytes
    assert [item.content_type for item in first.items] == ["image/png", "video/mp4"]
    assert first.closed


async def test_each_file_that_is_stored_is_told(output):
    """At each target, those of a commit too, without secrets; what failed is not."""
    a, told = output("a.png"), []
    refusing = Shelf("http_upload")
    refusing.faults = [PutFailed("no", passing=False)]
    shelves = (Shelf("s3"), Ledger(), refusing)
    async with delivery(*shelves, on_stored=lambda *news: told.append(news)) as job:
        with pytest.raises(UploadFailed):
            await job.finish([a])

    assert sorted(news[:3] for news in told) == [
        ("https://hub/p/a.png", a.path, a.bytes),
        ("s3://shelf/p/a.png", a.path, a.bytes),
    ]
    assert all(seconds >= 0 for *_, seconds in told)


async def test_each_file_at_each_target_is_counted_once(output):
    """After its last try, by how that ended; those of a commit, too."""
    metrics, refusing = Metrics(), Shelf("http_upload")
    refusing.faults = [PutFailed("slow", passing=True), PutFailed("no", passing=False)]
    a, b = output("a.png"), output("b.png")
    shelves = (Shelf("s3"), Ledger(), refusing)
    async with delivery(*shelves, metrics=metrics) as job:
        with pytest.raises(UploadFailed):
            await job.finish([a, b])

    stored = {("s3", "stored"): 2, ("hf_upload", "stored"): 2}
    assert metrics.uploads.values == {
        **stored,
        ("http_upload", "failed"): 1,
        ("http_upload", "stored"): 1,
    }
    assert metrics.bytes_out.values[("s3",)] == a.bytes + b.bytes


async def test_an_upload_is_over_before_the_next_output_exists(output):
    """It begins when it is submitted."""
    shelf = Shelf()
    async with delivery(shelf) as job:
        await job.submit(output("a.png"))
        while not shelf.files:
            await asyncio.sleep(0)
        b = output("b.png")
        results = await job.finish([output("a.png"), b])

    (first,), (second,) = results
    assert len(shelf.items) == 2
    assert first.ended_ms <= second.started_ms


async def test_a_target_that_has_to_know_all_waits_for_the_end(output):
    """Then each has its place in the order of the answer."""
    shelf = Shelf(waits=True)
    async with delivery(shelf) as job:
        b = output("b.png")
        await job.submit(b)
        await asyncio.sleep(0)
        assert shelf.items == []
        await job.finish([output("a.png"), b])

    assert {item.name: item.place for item in shelf.items} == {"a.png": 0, "b.png": 1}


async def test_names_that_meet_are_told_apart(output):
    """Nothing of a job is stored over."""
    shelf = Shelf()
    outputs = [output("cat.png", node=str(node)) for node in range(3)]
    async with delivery(shelf) as job:
        results = await job.finish(outputs)

    assert list(shelf.files) == ["p/cat.png", "p/cat-2.png", "p/cat-3.png"]
    assert [parts[0].location for parts in results] == [f"s3://shelf/{key}" for key in shelf.files]
    assert [*shelf.files.values()] == [one.path.read_bytes() for one in outputs]


async def test_templates_make_the_keys(output):
    """With the job's id and the node."""
    shelf = Shelf()
    async with delivery(shelf, key="{prefix}{id}/{node}/{filename}") as job:
        await job.finish([output("cat.png", node="7")])

    assert list(shelf.files) == ["p/job-1/7/cat.png"]


async def test_uploads_are_bounded_for_a_job_and_for_all(output):
    """A job of hundreds of files leaves room for others."""
    shelf, crowd = Shelf(), Shelf()
    outputs = [output(f"{number}.png", 10) for number in range(12)]
    async with delivery(shelf, limits=Limits(per_job=4)) as job:
        await job.finish(outputs)
    async with delivery(crowd, gate=2) as job:
        await job.finish(outputs)

    assert (shelf.most, crowd.most) == (4, 2)


async def test_what_passes_is_tried_again(output, caplog):
    """A try that takes too long passes, too; no secret is in the log."""
    shelf = Shelf()
    shelf.faults = [PutFailed(f"503 {SECRET}", passing=True), TimeoutError()]
    with caplog.at_level(logging.INFO):
        async with delivery(shelf) as job:
            ((uploaded,),) = await job.finish([output("cat.png")])

    assert len(shelf.items) == 3
    assert uploaded.seconds > 0
    assert "try 1 to store cat.png failed" in caplog.text
    assert SECRET not in caplog.text


async def test_an_upload_that_hangs_is_ended(output):
    """After its time."""
    shelf = Shelf()
    shelf.gate = asyncio.Event()
    limits = Limits(tries=2, backoff_s=0.001, timeout_s=0.05)
    async with delivery(shelf, limits=limits) as job:
        with pytest.raises(UploadFailed, match=r"not done within 0.05 s"):
            await job.finish([output("cat.png")])
    assert len(shelf.items) == 2


async def test_a_failed_upload_is_an_error_that_names_target_and_file(output):
    """After the tries that are worth it, and after all others have ended."""
    bad, good = Shelf("s3"), Shelf("http_upload")
    bad.faults = [PutFailed(f"503 slow {SECRET}", passing=True, status=503, code="Slow")] * 3
    async with delivery(bad, good) as job:
        with pytest.raises(UploadFailed) as caught:
            await job.finish([output("cat.png")])

    fault = caught.value
    assert fault.message == "s3: cat.png is not stored at s3://shelf/p/cat.png: 503 slow …"
    assert (fault.status, fault.blame, fault.retryable) == (502, "platform", True)
    assert fault.location == "s3"
    assert fault.details == {
        "failed": [
            {
                "target": "s3",
                "filename": "cat.png",
                "location": "s3://shelf/p/cat.png",
                "why": "503 slow …",
                "status": 503,
                "provider_code": "Slow",
                "tries": 3,
            }
        ],
        "delivered": [
            {
                "target": "http_upload",
                "filename": "cat.png",
                "location": "http_upload://shelf/p/cat.png",
            }
        ],
    }
    assert SECRET not in str(fault.envelope())


@pytest.mark.parametrize(
    ("own", "whose", "blame", "retryable"),
    [
        (True, "store", "caller", False),
        (False, "store", "platform", False),
        (True, "place", "caller", False),
        (False, "place", "caller", False),
        (True, "worker", "platform", True),
        (False, "worker", "platform", True),
    ],
)
async def test_a_refusal_is_the_fault_of_who_can_mend_it(output, own, whose, blame, retryable):
    """The same again is another run: it is asked for only where it could end another way."""
    shelf = Shelf(own=own)
    fault = PutFailed("403", passing=False, status=403, hint="look there", whose=whose)
    shelf.faults = [fault] * 2
    async with delivery(shelf) as job:
        with pytest.raises(UploadFailed, match="and 1 more") as caught:
            await job.finish([output("a.png"), output("b.png")])

    assert (caught.value.blame, caught.value.retryable) == (blame, retryable)
    assert caught.value.hint == "look there"
    assert len(shelf.items) == 2
    assert [one["tries"] for one in caught.value.details["failed"]] == [1, 1]


@pytest.mark.parametrize("fault", [PutFailed("no", passing=False), InvalidPayload("too few")])
async def test_it_is_said_where_outputs_are_that_are_not_stored(output, fault):
    """So that nobody pays for another run; not where none are kept."""
    for kept_s in (0, 60):
        shelf = Shelf()
        shelf.faults = [fault]
        async with delivery(shelf, kept_s=kept_s) as job:
            with pytest.raises(HandlerError) as caught:
                await job.finish([output("a.png")])
        hint = caught.value.hint or ""
        for told in ("kept for 60 s", "GET /jobs/job-1 ", "POST /jobs/job-1/redeliver"):
            assert (told in hint) == bool(kept_s)


async def test_a_place_is_told_whole_and_logged_without_secrets(output, caplog):
    """What stands for a link for good must lead there."""
    shelf = Shelf()
    key = f"{'k' * 400}?a={SECRET}"
    with caplog.at_level(logging.INFO):
        async with delivery(shelf, key=key) as job:
            ((stored,),) = await job.finish([output("a.png")])
    assert stored.location == f"s3://shelf/{key}"
    assert SECRET not in caplog.text


async def test_another_run_is_of_no_use_where_one_fault_stays(output):
    """Whatever else may pass; that one is told."""
    passes, stays = Shelf("s3"), Shelf("volume")
    passes.faults = [PutFailed("503", passing=True)] * 3
    stays.faults = [PutFailed("no such folder", passing=False, whose="place")]
    async with delivery(passes, stays) as job:
        with pytest.raises(UploadFailed, match=r"volume: .*no such folder \(and 1 more") as caught:
            await job.finish([output("a.png")])
    assert (caught.value.blame, caught.value.retryable) == ("caller", False)
    assert [one["target"] for one in caught.value.details["failed"]] == ["s3", "volume"]


async def test_an_address_that_has_become_forbidden_is_told_as_that(output):
    """It is no fault of the store's."""
    shelf = Shelf()
    shelf.faults = [UrlNotAllowed("no")]
    async with delivery(shelf) as job:
        with pytest.raises(UrlNotAllowed):
            await job.finish([output("cat.png")])


async def test_a_commit_is_made_of_all_files_at_the_end(output):
    """Their bytes go before; a commit that another came before is made again."""
    ledger = Ledger()
    a, b = output("a.png"), output("b.png")
    async with delivery(ledger) as job:
        await job.submit(b)
        while not ledger.staged:
            await asyncio.sleep(0)
        results = await job.finish([a, b])

    assert ledger.commits == [["p/a.png", "p/b.png"]] * 2
    assert [parts[0].url for parts in results] == ["https://hub/p/a.png", "https://hub/p/b.png"]
    assert results[1][0].started_ms <= results[0][0].started_ms


async def test_without_all_bytes_there_is_no_commit(output):
    """Nothing of it is told as delivered; without files there is none either."""
    ledger = Ledger()
    ledger.faults = [PutFailed("403", passing=False)]
    async with delivery(ledger) as job:
        with pytest.raises(UploadFailed) as caught:
            await job.finish([output("a.png"), output("b.png")])
    assert ledger.commits == []
    assert caught.value.details["delivered"] == []
    async with delivery(ledger) as job:
        assert await job.finish([]) == []
    assert ledger.commits == []


async def test_a_server_that_takes_a_byte_a_second_is_given_up(output):
    """All jobs share the places: some silent servers must not hold them for an hour."""
    limits = Limits(tries=1, timeout_s=3600, grace_s=0.05, slowest=1 << 20)
    slow, other = Shelf(), Shelf()
    slow.gate = asyncio.Event()
    gate = asyncio.Semaphore(1)

    async with delivery(slow, limits=limits, gate=gate) as held, delivery(other, gate=gate) as job:
        await held.submit(output("a.png"))
        await asyncio.sleep(0)
        stored = await job.finish([output("b.png")])
        with pytest.raises(UploadFailed, match=r"not done within 0\.05"):
            await held.finish([output("a.png")])

    assert stored[0][0].target == "s3"
    assert limits.longest_s(1 << 20) == 1.05
    assert limits.longest_s(1 << 40) == 3600


async def test_a_cancelled_job_ends_its_uploads(output):
    """And closes what was open."""
    shelf = Shelf()
    shelf.gate = asyncio.Event()
    async with delivery(shelf) as job:
        await job.submit(output("a.png"))
        await asyncio.sleep(0)
        assert "s3 1" in repr(job)
    assert (shelf.now, shelf.closed, shelf.files) == (0, True, {})


async def test_progress_is_told_in_the_loop(output):
    """By target and file."""
    told = []
    shelf = Shelf()
    async with delivery(shelf, on_progress=told.append) as job:
        await job.finish([output("a.png", 7)])
        await asyncio.sleep(0)

    (sent,) = told
    assert (sent.target, sent.filename, sent.sent, sent.size) == ("s3", "a.png", 7, 7)
