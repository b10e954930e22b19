"""The way of a payload through all stages."""

from __future__ import annotations

import asyncio
import base64
import io
import random
import time
import zipfile

import httpx
import pytest
from running import TWO, executing, playing
from worker import GRAPH, parts_in, received, until

from handler.engine.events import Failed
from handler.engine.memory import PIXEL, write_picture
from handler.errors import (
    ConversionFailed,
    EngineRefused,
    ExecutionFailed,
    ResultTooLarge,
    TimedOut,
    UploadFailed,
)
from handler.job import Phase
from handler.media.sniff import sniff
from handler.pipeline.run import run_pipeline
from handler.pipeline.stages import Ran
from handler.records import JOBS_FOLDER
from handler.settings import Settings


def runner(parts):
    """What the service does in between: run the graph."""

    async def execute(prepared):
        prefix = prepared.graph["2"]["inputs"]["filename_prefix"]
        told = {"images": [write_picture(parts.engine.files, prefix)]}
        return Ran(prepared.graph, prepared.output_nodes, told={"2": told})

    return execute


def never(_prepared):
    return asyncio.Event().wait()


def left(home):
    roots = (home / "input", home / "output", home / "temp", home / "scratch")
    return [path for root in roots for path in root.rglob("*") if path.is_file()]


async def test_a_payload_passes_every_stage(tmp_path):
    """Phases in order; the answer's close removes all files, strays included."""
    parts, job = parts_in(tmp_path), received(convert_output={"format": "png"})
    stray, gone = tmp_path / "temp" / "p.png", tmp_path / "temp" / "gone.png"
    stray.touch()
    job.job.strays |= {stray, gone}
    answer = await run_pipeline(job, parts, runner(parts))

    assert job.job.phase is Phase.DELIVERING
    assert list(job.job.stage_s) == ["received", "fetching", "collecting", "converting"]
    assert (await answer.json())["filenames"] == ["job_x_00001_.png"]
    assert left(tmp_path)
    await answer.close()
    assert left(tmp_path) == []


async def test_the_engines_boot_is_waited_for_and_counts_for_nothing(made):
    """It is no work of this job's, though it is of its total time."""
    booted = asyncio.Event()
    job = received()
    work = asyncio.create_task(run(made(script=playing()), job, ready=booted.wait))
    await asyncio.sleep(0.05)
    assert job.job.phase is Phase.RECEIVED
    booted.set()
    begun = time.monotonic()
    stats = (await work)["stats"]
    assert stats["total_time"] <= (time.monotonic() - begun) * 1000


async def test_without_conversion_there_is_no_such_phase(tmp_path):
    """Followers see only what happens."""
    parts, job = parts_in(tmp_path), received()
    await (await run_pipeline(job, parts, runner(parts))).close()
    assert "converting" not in job.job.stage_s


@pytest.mark.parametrize("own", [True, False])
async def test_the_total_time_is_a_limit(tmp_path, own):
    """The job's own, else the operator's; nothing is left behind."""
    parts = parts_in(tmp_path, Settings(job_timeout_s=0.0 if own else 0.05))
    keys = {"timeouts": {"total_s": 0.05}} if own else {}
    own = tmp_path / "output" / JOBS_FOLDER / "uid"
    own.mkdir(parents=True)
    (own / "half.png").touch()
    with pytest.raises(TimedOut, match=r"longer than its limit of 0\.05 s"):
        await run_pipeline(received(**keys), parts, never)
    assert left(tmp_path) == []


async def test_a_timeout_of_something_else_is_not_the_jobs(tmp_path):
    """It is told as what it is."""
    parts = parts_in(tmp_path)

    async def execute(prepared):
        raise TimeoutError("of a socket")

    with pytest.raises(TimeoutError, match="of a socket"):
        await run_pipeline(received(), parts, execute)


@pytest.mark.parametrize("error", [EngineRefused("x"), asyncio.CancelledError(), OSError("disk")])
async def test_whatever_fails_leaves_no_files(tmp_path, error):
    """Also a cancel; previews in the engine's temp folder go, too."""
    parts = parts_in(tmp_path)

    job, preview = received(GRAPH), tmp_path / "temp" / "p.png"

    async def execute(prepared):
        await runner(parts)(prepared)
        preview.touch()
        job.job.strays.add(preview)
        raise error

    with pytest.raises(type(error)):
        await run_pipeline(job, parts, execute)
    assert left(tmp_path) == []
    assert job.job.strays == set()


class Keeper:
    """Notes what is to be kept, and reads it: the files must still be there."""

    def __init__(self, error=None):
        self.error = error
        self.calls = []

    async def __call__(self, job, outputs, failed):
        bodies = [o.path.read_bytes() for o in outputs if o.path is not None]
        self.calls.append(([o.filename for o in outputs], bodies, failed))
        if self.error is not None:
            raise self.error


async def run(parts, job, **keys):
    """Run a job in the engine; give its JSON answer, closed."""
    async with await run_pipeline(job, parts, executing(parts, job.job), **keys) as answer:
        return await answer.json()


def to(store, path="/up", **keys):
    return {"http_upload": {"url_prefix": store.url(path), **keys}}


async def test_the_first_output_is_stored_before_the_second_node_ends(
    made, store, tmp_path, caplog
):
    """While the graph runs: by the store, by the phase, and by the timestamps."""
    caplog.set_level("INFO", "comfyfn.delivery")
    gate = asyncio.Event()
    parts, job = made(script=playing(gate=gate)), received(TWO, **to(store))
    work = asyncio.create_task(run(parts, job))
    await until(lambda: "stored http" in caplog.text)
    assert job.job.phase is not Phase.DELIVERING
    assert list(store.files) == ["/up/job_x_00001_.png"]
    gate.set()
    body = await work

    first, second = body["outputs"]
    begun = body["stats"]["comfy_execution"]["nodes"]
    assert body["images"] == [store.url(f"/up/job_{name}_00001_.png") for name in "xy"]
    assert first["uploads"][0]["ended_ms"] <= begun["3"]["start"]
    assert second["uploads"][0]["started_ms"] >= first["uploads"][0]["ended_ms"]
    assert len(store.puts) == 2
    assert left(tmp_path) == []
    told = [event.data for event in job.job.events if event.type == "upload"]
    assert {data["filename"] for data in told} == {"job_x_00001_.png", "job_y_00001_.png"}
    assert all(data["sent"] == data["size"] == len(PIXEL) for data in told[-1:])


@pytest.mark.parametrize(("form", "mime"), [("jpeg", "image/jpeg"), ("webp", "image/webp")])
async def test_what_is_uploaded_is_converted(made, s3, form, mime):
    """Name, URL and content type."""
    parts = made(script=playing())
    body = await run(parts, received(TWO, s3=s3(f"{form}/"), convert_output={"format": form}))

    assert body["filenames"] == [f"job_{name}_00001_.{form}" for name in "xy"]
    for url in body["images"]:
        data, kind = s3.read(url.removeprefix("s3://results/"))
        assert kind == mime
        assert sniff(data) == mime
        assert len(data) in {output["bytes"] for output in body["outputs"]}


async def test_a_storage_that_refuses_fails_the_job_and_the_outputs_are_kept(made, store, tmp_path):
    """The target is named, another try may do; nothing is left but what was kept."""
    store.replies += [(507, {}, "full")] * 20
    parts, keep = made(script=playing()), Keeper()
    with pytest.raises(UploadFailed, match="http_upload") as caught:
        await run(parts, received(TWO, **to(store)), keep=keep)

    assert (caught.value.status, caught.value.retryable) == (502, True)
    assert caught.value.location == "http_upload"
    names = ["job_x_00001_.png", "job_y_00001_.png"]
    assert keep.calls == [(names, [PIXEL, PIXEL], True)]
    assert left(tmp_path) == []


async def test_the_outputs_of_a_success_are_kept_as_they_are_told(made):
    """Converted, texts among them."""
    parts, keep = made(script=playing(texts=["said"])), Keeper()
    await run(parts, received(GRAPH, convert_output={"format": "webp"}), keep=keep)

    ((names, bodies, failed),) = keep.calls
    assert (names, failed) == (["job_x_00001_.webp", "2_0.txt"], False)
    assert bodies[0][:4] == b"RIFF"


async def test_a_fault_of_keeping_hides_nothing(made, store, caplog):
    """Neither a success nor the job's own error."""
    keep = Keeper(OSError("disk"))
    assert (await run(made(script=playing()), received(), keep=keep))["images"]
    store.replies.append((403, {}, "no"))
    with pytest.raises(UploadFailed):
        await run(made(script=playing()), received(**to(store)), keep=keep)
    assert [failed for *_, failed in keep.calls] == [False, True]
    assert caplog.text.count("could not be kept") == 2


async def test_a_job_that_is_late_when_its_outputs_are_there_has_them_kept(made, store, tmp_path):
    """The store does not answer in time."""
    store.gate = asyncio.Event()
    parts, keep = made(script=playing()), Keeper()
    job = received(GRAPH, timeouts={"total_s": 0.5}, **to(store))
    with pytest.raises(TimedOut):
        await run(parts, job, keep=keep)
    assert [(names, failed) for names, _, failed in keep.calls] == [(["job_x_00001_.png"], True)]
    assert left(tmp_path) == []


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_a_run_that_does_not_end_well_ends_its_uploads(made, store, tmp_path, how):
    """Nothing is kept, nothing is stored, no file is left."""
    store.gate, gate = asyncio.Event(), asyncio.Event()
    end = Failed("3", "SaveImage", "ValueError", "bad")
    parts, keep = made(script=playing(gate=gate, end=end)), Keeper()
    work = asyncio.create_task(run(parts, received(TWO, **to(store)), keep=keep))
    await until(lambda: store.puts)
    if how == "failed":
        gate.set()
        with pytest.raises(ExecutionFailed):
            await work
    else:
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert (store.files, keep.calls, left(tmp_path)) == ({}, [], [])


async def test_a_cancel_while_it_is_delivered_leaves_nothing(made, store, tmp_path):
    """Somebody wants no result."""
    store.gate = asyncio.Event()
    parts, job, keep = made(script=playing()), received(**to(store)), Keeper()
    work = asyncio.create_task(run(parts, job, keep=keep))
    await until(lambda: job.job.phase is Phase.DELIVERING)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (store.files, keep.calls, left(tmp_path)) == ({}, [], [])


async def test_a_conversion_that_fails_keeps_the_originals(made, store):
    """The run was paid for; nothing is stored in place of what was asked for."""

    async def script(prompt, files):
        async for event in playing()(prompt, files):
            for path in files.outputs_of("uid").rglob("*.png"):
                path.write_bytes(PIXEL[:60])
            yield event

    parts, keep = made(script=script), Keeper()
    job = received(GRAPH, convert_output={"format": "webp"}, **to(store))
    with pytest.raises(ConversionFailed):
        await run(parts, job, keep=keep)
    assert keep.calls == [(["job_x_00001_.png"], [PIXEL[:60]], True)]
    assert store.puts == []


async def test_25_mb_over_a_ceiling_of_10_go_to_the_storage(made, s3, storage):
    """URLs in place of base64, that open without keys; the answer says so."""
    size = 25 << 20
    settings = Settings(inline_max_mb=10, output_storage=storage("big/"))
    body = await run(made(settings, script=playing(size=size)), received())

    assert body["stats"]["spilled"] is True
    assert body["stats"]["upload_time"] > 0
    (url,) = body["images"]
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        assert (await client.get(url)).content == random.Random("2").randbytes(size)
    assert len(str(body)) < 10_000


async def test_25_mb_over_a_ceiling_of_10_are_refused_without_a_storage(made, tmp_path):
    """Before the platform drops it; the outputs are kept."""
    parts = made(Settings(inline_max_mb=10), script=playing(size=25 << 20))
    keep = Keeper()
    with pytest.raises(ResultTooLarge, match=r"33\.\d MiB.* 10\.0 MiB") as caught:
        await run(parts, received(), keep=keep)

    assert caught.value.status == 422
    assert caught.value.details["outputs"] == [{"filename": "job_x_00001_.png", "bytes": 25 << 20}]
    assert [failed for *_, failed in keep.calls] == [True]
    assert left(tmp_path) == []


async def test_a_small_result_and_texts_are_under_every_ceiling(made):
    """As if there were none."""
    body = await run(made(Settings(inline_max_mb=1), script=playing(texts=["said"])), received())
    assert base64.b64decode(body["images"][0]) == PIXEL
    assert body["outputs"][1]["text"] == "said"
    assert "spilled" not in body["stats"]


async def test_an_archive_is_the_one_output(made):
    """Inline as base64; texts are in it."""
    parts, keep = made(script=playing(texts=["said"])), Keeper()
    body = await run(parts, received(TWO, archive="zip"), keep=keep)

    assert body["filenames"] == ["job.zip"]
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(body["images"][0]))) as archive:
        names = ["job_x_00001_.png", "2_0.txt", "job_y_00001_.png", "3_0.txt"]
        assert archive.namelist() == names
        assert archive.read(names[0]) == PIXEL
    assert [names for names, *_ in keep.calls] == [["job.zip"]]


async def test_an_archive_is_uploaded_as_one_file(made, store):
    """The single files are not."""
    job = received(TWO, archive="zip", convert_output={"format": "webp"}, **to(store))
    body = await run(made(script=playing()), job)

    assert body["images"] == [store.url("/up/job.zip")]
    assert list(store.files) == ["/up/job.zip"]
    assert store.puts[0].headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(store.files["/up/job.zip"])) as archive:
        assert archive.namelist() == ["job_x_00001_.webp", "job_y_00001_.webp"]
