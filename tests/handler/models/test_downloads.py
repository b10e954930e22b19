"""Downloads on their way, and what came of them."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from worker import until

from handler.engine.base import EngineState
from handler.engine.model_folders import ModelFolders
from handler.errors import (
    Draining,
    HandlerError,
    InputFailed,
    InvalidPayload,
    JobCancelled,
    NotFound,
    NotReady,
    QueueFull,
    UrlNotAllowed,
)
from handler.models.downloads import Downloads
from handler.models.library import Added
from handler.transfer.base import AccessDenied
from handler.transfer.records import Progress

URL = "https://example.org/m.safetensors"
RAW = {"url": URL, "model_type": "loras"}


class Folders:
    """An engine as far as downloads ask it: its state, and folders once it has booted."""

    def __init__(self, *, booted=True):
        self.state = EngineState.READY if booted else EngineState.STARTING
        self.booted = asyncio.Event()
        if booted:
            self.booted.set()

    async def model_folders(self):
        if not self.booted.is_set():
            raise NotReady("not told yet")
        return ModelFolders({"loras": (Path("/m/loras"),), "diffusion_models": (Path("/m/unet"),)})

    async def ready(self):
        if self.state is EngineState.FAILED:
            raise NotReady("the engine is failed: it was so")
        await self.booted.wait()


class Shelf:
    """A library that brings what it is told to: `error`, or a file once `gate` is open."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.asked, self.released, self.busy, self.most = [], [], 0, 0

    async def add(self, source, folder, filename, owner, on_progress=None):
        self.asked.append((source, folder, filename, owner))
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            on_progress(Progress(1, 4, 9.0))
            await self.gate.wait()
            if self.error:
                raise self.error
            leaf = filename or "from-the-source.safetensors"
            return Added(folder, leaf, Path("/m") / folder / leaf, 4, 0.1, fetched=True)
        finally:
            self.busy -= 1

    def release(self, owner):
        self.released.append(owner)


@contextlib.asynccontextmanager
async def board(*, engine=None, admit=None, **options):
    """Give downloads, their library and their engine."""

    async def anything(_url):
        pass

    engine, shelf = engine or Folders(), Shelf()
    options = {"retention_s": 3600.0, **options}
    downloads = Downloads(shelf, engine, ready=engine.ready, admit=admit or anything, **options)
    try:
        yield downloads, shelf, engine
    finally:
        await downloads.close()


async def test_a_download_ends_as_completed():
    """Its record stays, its pin does not."""
    async with board() as (downloads, shelf, _):
        begun = await downloads.begin({**RAW, "sha256": "AB" * 32, "size": 4})
        ended = await downloads.result(begun)

        answer = ended.answer()
        assert (answer["status"], answer["size"], answer["filename"]) == (
            "completed", 4, "m.safetensors",
        )  # fmt: skip
        source, folder, name, owner = shelf.asked[0]
        assert (source.url, source.sha256, source.size) == (URL, "ab" * 32, 4)
        assert (folder, name) == ("loras", "m.safetensors")
        assert shelf.released == [owner]
        assert downloads.find(ended.id) is ended


async def test_progress_is_told_meanwhile():
    """As far as the library tells it."""
    async with board() as (downloads, shelf, _):
        shelf.gate.clear()
        begun = await downloads.begin(RAW)
        await until(lambda: shelf.asked)
        record = downloads.find(begun.id).public()
        assert (record["status"], record["done"], record["total"]) == ("started", 1, 4)
        assert [one.id for one in downloads.known()] == [begun.id]


@pytest.mark.parametrize(
    ("url", "asked", "known"),
    [
        ("https://h/a/m.ckpt?x=1", "m.ckpt", "m.ckpt"),
        ("https://h/api/models/1287", None, "1287"),
        ("https://h/a%2Fm.ckpt", None, "a/m.ckpt"),
        ("https://h/", None, ""),
    ],
)
async def test_a_name_that_the_url_does_not_tell_is_the_sources(url, asked, known):
    """A name without a suffix would never be listed; the record has the final one."""
    async with board() as (downloads, shelf, _):
        begun = await downloads.begin({**RAW, "url": url})
        assert begun.filename == known
        await downloads.result(begun)
        assert shelf.asked[0][2] == asked
        assert begun.filename == (asked or "from-the-source.safetensors")


@pytest.mark.parametrize("name", ["../x.ckpt", "a/b.ckpt", "a\\b.ckpt", "", ".", "x\0", "nul.ckpt"])
async def test_a_name_that_is_no_leaf_is_refused(name):
    """Before anything is started."""
    async with board() as (downloads, shelf, _):
        with pytest.raises(InvalidPayload) as caught:
            await downloads.begin({**RAW, "filename": name})
        assert caught.value.location == "filename"
        assert not shelf.asked


async def test_an_unknown_folder_is_refused_before_anything_is_started():
    """Where the engine has told its folders."""
    async with board() as (downloads, shelf, _):
        with pytest.raises(InvalidPayload) as caught:
            await downloads.begin({**RAW, "model_type": "lora"})
        assert "loras" in caught.value.hint
        assert not shelf.asked
        assert downloads.known() == []


async def test_a_folder_by_its_name_on_disk_is_the_engines():
    """comfyui-api's callers say `unet`; the answer says what they said."""
    async with board() as (downloads, shelf, _):
        ended = await downloads.result(await downloads.begin({**RAW, "model_type": "unet"}))
        assert shelf.asked[0][1] == "diffusion_models"
        assert ended.answer()["model_type"] == "unet"


async def test_before_the_engine_has_booted_a_download_waits():
    """It is taken at once; what is wrong with its folder is told by the record."""
    engine = Folders(booted=False)
    async with board(engine=engine) as (downloads, shelf, _):
        good = await downloads.begin(RAW)
        bad = await downloads.begin({**RAW, "model_type": "nowhere"})
        assert good.status == bad.status == "started"
        assert not shelf.asked
        engine.booted.set()
        assert (await downloads.result(good)).status == "completed"
        with pytest.raises(InvalidPayload):
            await downloads.result(bad)
        assert bad.public()["error"]["code"] == "invalid_payload"


async def test_an_engine_that_will_never_boot_takes_none():
    """It is told why."""
    engine = Folders(booted=False)
    engine.state = EngineState.FAILED
    async with board(engine=engine) as (downloads, _, _):
        with pytest.raises(NotReady, match="it was so"):
            await downloads.begin(RAW)


async def test_a_url_that_is_not_allowed_is_refused_before_anything_is_started():
    """In its own words."""

    async def refuse(_url):
        raise UrlNotAllowed("h does not lead to a public address")

    async with board(admit=refuse) as (downloads, shelf, _):
        with pytest.raises(UrlNotAllowed) as caught:
            await downloads.begin(RAW)
        assert caught.value.message.startswith("h does not")
        assert caught.value.location == "url"
        assert not shelf.asked


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            InputFailed("http://h/x: 404 Not Found", details={"status": 404}),
            "Error downloading file: Not Found (404, http://h/x)",
        ),
        (
            AccessDenied("http://h/x: 401 Unauthorized", details={"status": 401}),
            "Error downloading file: Unauthorized (401, http://h/x)",
        ),
        (InputFailed("http://h/x: 499 ", details={"status": 499}), None),
        (InputFailed("http://h/x: the source broke off"), None),
    ],
)
async def test_a_fetch_that_failed_is_told_in_comfyui_apis_words(error, message):
    """The reason follows them at once, and code and place stay."""
    async with board() as (downloads, shelf, _):
        shelf.error = error
        begun = await downloads.begin(RAW)
        with pytest.raises(InputFailed) as caught:
            await downloads.result(begun)
        told = caught.value
        assert told.message == (message or f"Error downloading file: {error.message}")
        assert (told.code, told.location) == (error.code, "url")
        assert begun.public()["status"] == "failed"
        assert begun.public()["error"]["error"] == told.message


async def test_a_fault_of_ours_is_one_and_shows_its_kind_only():
    """The log has the rest."""
    async with board() as (downloads, shelf, _):
        shelf.error = ZeroDivisionError("s3cret")
        with pytest.raises(HandlerError) as caught:
            await downloads.result(await downloads.begin(RAW))
        assert caught.value.status == 500
        assert "s3cret" not in str(caught.value.envelope())


async def test_who_waits_and_leaves_does_not_end_it():
    """The file goes on in the background."""
    async with board() as (downloads, shelf, _):
        shelf.gate.clear()
        begun = await downloads.begin(RAW)
        waiting = asyncio.ensure_future(downloads.result(begun))
        await until(lambda: shelf.asked and downloads.awaited())
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        shelf.gate.set()
        assert (await downloads.result(begun)).status == "completed"


async def test_a_cancelled_one_ends_and_says_so():
    """Whoever waits for it is told; cancelling what has ended changes nothing."""
    async with board() as (downloads, shelf, _):
        shelf.gate.clear()
        begun = await downloads.begin(RAW)
        waiting = asyncio.ensure_future(downloads.result(begun))
        await until(lambda: shelf.asked)
        record = (await downloads.cancel(begun.id)).public()
        assert (record["status"], record["error"]["code"]) == ("failed", "cancelled")
        with pytest.raises(JobCancelled):
            await waiting
        assert (await downloads.cancel(begun.id)).public() == record
        assert shelf.released
        with pytest.raises(NotFound):
            await downloads.cancel("nobody")


async def test_one_that_is_cancelled_before_it_began_ends_too():
    """A task cancelled before its first step runs none of its code."""
    async with board() as (downloads, shelf, _):
        begun = await downloads.begin(RAW)
        assert (await downloads.cancel(begun.id)).status == "failed"
        assert not shelf.asked


async def test_no_more_than_the_limit_are_on_their_way():
    """The others wait their turn."""
    async with board(at_once=2) as (downloads, shelf, _):
        shelf.gate.clear()
        begun = [await downloads.begin(RAW) for _ in range(5)]
        await until(lambda: shelf.busy == 2)
        shelf.gate.set()
        for one in begun:
            await downloads.result(one)
        assert (shelf.most, len(shelf.asked)) == (2, 5)


async def test_records_are_kept_for_a_while_and_no_more_than_the_limit():
    """The oldest that have ended go first; one that is under way never does."""
    async with board(most=3) as (downloads, shelf, _):
        first = await downloads.result(await downloads.begin(RAW))
        shelf.gate.clear()
        others = [await downloads.begin(RAW) for _ in range(3)]
        assert [one.id for one in downloads.known()] == [one.id for one in reversed(others)]
        with pytest.raises(NotFound):
            downloads.find(first.id)
        with pytest.raises(QueueFull):
            await downloads.begin(RAW)

    async with board(retention_s=0.0) as (downloads, _, _):
        await downloads.result(await downloads.begin(RAW))
        assert downloads.known() == []


async def test_a_draining_worker_takes_none_and_closing_ends_those_in_hand():
    """Who waits is told that the worker goes."""
    async with board() as (downloads, shelf, _):
        shelf.gate.clear()
        begun = await downloads.begin(RAW)
        waiting = asyncio.ensure_future(downloads.result(begun))
        await until(lambda: downloads.awaited())
        downloads.refuse()
        with pytest.raises(Draining):
            await downloads.begin(RAW)
        await downloads.close()
        with pytest.raises(Draining):
            await waiting
