"""The downloader against a host that misbehaves in every way that was seen."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path

import pytest
from sources.host import File, safetensors, talking

from handler.credentials import BearerAuth
from handler.errors import InputFailed
from handler.transfer.base import AccessDenied, DiskFull
from handler.transfer.records import Wanted
from handler.transfer.verify import Corrupt

MODEL = safetensors(40 << 20)
SMALL = safetensors(100_000)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


async def test_a_large_file_comes_over_several_connections(host, make, tmp_path):
    """Its bytes are right, and nothing but the file is left."""
    url = host.put("/model.safetensors", MODEL)
    news = []

    got = await make().download(Wanted(url, tmp_path / "m.safetensors"), news.append)

    assert (tmp_path / "m.safetensors").read_bytes() == MODEL
    assert (got.bytes, got.resumed_bytes, got.filename_hint) == (len(MODEL), 0, "model.safetensors")
    assert 1 < host.most_open <= 4
    assert host.served == len(MODEL)
    assert host.connections <= 5
    assert names(tmp_path) == ["m.safetensors"]
    assert news[-1].done == news[-1].total == len(MODEL)
    assert news[-1].bytes_per_s > 0


async def test_what_came_is_told(host, make, tmp_path):
    """Once however many asked, and not where who asked is to tell it, or where nothing came."""
    url, told = host.put("/s.safetensors", SMALL), []
    downloader = make(on_done=lambda *news: told.append(news))
    wanted = Wanted(url, tmp_path / "s.safetensors")

    got, _ = await asyncio.gather(downloader.download(wanted), downloader.download(wanted))
    await downloader.download(Wanted(url, tmp_path / "quiet.safetensors", quiet=True))
    with pytest.raises(InputFailed):
        await downloader.download(Wanted(host.url("/none"), tmp_path / "none"))

    assert told == [(url, wanted.target, len(SMALL), got.seconds)]


async def test_the_bytes_that_came_are_counted_and_not_those_that_were_here(host, make, tmp_path):
    """A download that is taken up again counts its rest."""
    url, counted = host.put("/s.safetensors", SMALL, drops=[50_000]), []
    downloader = make(count=lambda *news: counted.append(news), tries=1)
    wanted = Wanted(url, tmp_path / "s.safetensors")

    with pytest.raises(InputFailed):
        await downloader.download(wanted)
    got = await downloader.download(wanted)

    assert got.resumed_bytes == 50_000
    assert counted == [(url, len(SMALL) - 50_000)]


async def test_a_small_file_costs_one_request(host, make, tmp_path):
    """The first question brings the bytes along."""
    url = host.put("/s.safetensors", SMALL)

    await make().download(Wanted(url, tmp_path / "s.safetensors"))

    assert len(host.requests) == 1


async def test_an_empty_file_is_a_file(host, make, tmp_path):
    """It has no first byte to ask for."""
    url = host.put("/empty.bin", b"")

    got = await make().download(Wanted(url, tmp_path / "e", kind="file"))

    assert (got.bytes, (tmp_path / "e").read_bytes()) == (0, b"")


async def test_a_drop_at_99_percent_costs_the_last_percent(host, make, tmp_path):
    """Only what is missing is asked for again."""
    body = safetensors(900_000)
    url = host.put("/m.safetensors", body, drops=[len(body) * 99 // 100])

    await make().download(Wanted(url, tmp_path / "m.safetensors"))

    assert (tmp_path / "m.safetensors").read_bytes() == body
    assert host.served == len(body)
    assert host.requests[1].headers["range"].startswith(f"bytes={len(body) * 99 // 100}-")
    assert host.requests[1].headers["if-range"] == '"v1"'


async def test_every_connection_may_drop_again_and_again(host, make, tmp_path):
    """As long as each try brings something on."""
    url = host.put("/m.safetensors", MODEL, drops=[300_000] * 60)

    await make().download(Wanted(url, tmp_path / "m.safetensors"))

    assert (tmp_path / "m.safetensors").read_bytes() == MODEL


async def test_a_source_without_ranges_gives_the_file_in_one_go(host, make, tmp_path):
    """Over one connection; after a drop it begins anew."""
    url = host.put("/m.safetensors", MODEL, ranges=False, drops=[len(MODEL) * 99 // 100])

    await make().download(Wanted(url, tmp_path / "m.safetensors"))

    assert (tmp_path / "m.safetensors").read_bytes() == MODEL
    assert [request.headers["range"] for request in host.requests] == ["bytes=0-16777215"] * 2
    assert host.most_open == 1


async def test_a_source_without_ranges_that_always_drops_is_given_up(host, make, tmp_path):
    """After some tries, with nothing left behind."""
    url = host.put("/m.safetensors", SMALL, ranges=False, drops=[90_000] * 99)

    with pytest.raises(InputFailed, match="broke off after 90000 of") as caught:
        await make(tries=3).download(Wanted(url, tmp_path / "m.safetensors"))

    assert caught.value.retryable
    assert len(host.requests) == 3


async def test_a_file_that_changes_between_ranges_is_begun_anew(host, make, tmp_path):
    """Bytes of two versions are never mixed."""
    new = safetensors(40 << 20, seed=2)

    def change(_):
        if len(host.requests) == 3:
            host.put("/m.safetensors", new, etag='"v2"')

    url = host.put("/m.safetensors", MODEL, before=change)

    await make().download(Wanted(url, tmp_path / "m.safetensors"))

    assert (tmp_path / "m.safetensors").read_bytes() == new


async def test_a_file_that_never_stays_the_same_is_given_up(host, make, tmp_path):
    """Even asked for in one go it may not be had in parts, so that way is tried."""
    versions = iter(range(10_000))

    def change(_):
        host.files["/m.safetensors"].etag = f'"{next(versions)}"'

    url = host.put("/m.safetensors", MODEL, before=change)

    await make().download(Wanted(url, tmp_path / "m.safetensors"))

    assert "range" not in host.requests[-1].headers
    assert (tmp_path / "m.safetensors").read_bytes() == MODEL


async def test_a_length_that_is_told_wrong_is_a_fault(host, make, tmp_path):
    """Too few bytes are told as such, not published."""
    url = host.put("/m.bin", SMALL, ranges=False, length=len(SMALL) + 10)

    with pytest.raises(InputFailed, match=f"broke off after {len(SMALL)} of {len(SMALL) + 10}"):
        await make(tries=2, idle_s=0.3).download(Wanted(url, tmp_path / "m.bin"))
    assert not (tmp_path / "m.bin").exists()


async def test_another_size_than_told_is_refused_before_anything_is_fetched(host, make, tmp_path):
    """The manifest knows better."""
    url = host.put("/m.bin", SMALL)

    with pytest.raises(InputFailed, match=r"100\d+ bytes, not the 5 that were told"):
        await make().download(Wanted(url, tmp_path / "m.bin", size=5))
    assert names(tmp_path) == []


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_wrong_hash_is_not_published(host, make, tmp_path, ranges):
    """Nothing is left: the bytes are known to be wrong."""
    url = host.put("/m.safetensors", MODEL, ranges=ranges)

    with pytest.raises(Corrupt, match="SHA-256") as caught:
        await make().download(Wanted(url, tmp_path / "m.safetensors", sha256="0" * 64))

    assert caught.value.details["found"] == hashlib.sha256(MODEL).hexdigest()
    assert not caught.value.retryable
    assert names(tmp_path) == []


async def test_a_right_hash_is_given_back(host, make, tmp_path):
    """Computed while the bytes came."""
    url = host.put("/m.bin", MODEL)
    true = hashlib.sha256(MODEL).hexdigest()

    got = await make().download(Wanted(url, tmp_path / "m.bin", sha256=true.upper()))

    assert got.sha256 == true


async def test_a_truncated_safetensors_is_refused(host, make, tmp_path):
    """The host's length is right, the header's is not."""
    url = host.put("/m.safetensors", SMALL[:-7])

    with pytest.raises(Corrupt, match="header promises"):
        await make().download(Wanted(url, tmp_path / "m.safetensors"))
    assert names(tmp_path) == []


@pytest.mark.parametrize("told", ["text/html; charset=utf-8", "application/octet-stream"])
async def test_a_login_page_instead_of_a_model_names_the_host(host, make, tmp_path, told):
    """Whatever media type the page claims."""
    size = 7_000_000 if "html" in told else None
    page = b"\n<!DOCTYPE html><title>Sign in</title>"
    url = host.put("/m.safetensors", page, content_type=told)

    with pytest.raises(InputFailed, match=r"127\.0\.0\.1 gave a web page") as caught:
        await make().download(Wanted(url, tmp_path / "m.safetensors", size=size))

    assert "credentials" in caught.value.hint
    assert names(tmp_path) == []


async def test_a_page_may_be_fetched_as_a_file(host, make, tmp_path):
    """Media and configurations are looked into by others."""
    url = host.put("/a.json", b'{"a": 1}', content_type="application/json")

    await make().download(Wanted(url, tmp_path / "model.json"))
    await make().download(Wanted(url, tmp_path / "x", kind="file"))


async def test_a_slow_loris_is_left(host, make, tmp_path):
    """A byte now and then is no download."""

    async def drip(_sent):
        await asyncio.sleep(0.05)

    url = host.put("/m.bin", MODEL, pause=drip)
    wanted = Wanted(url, tmp_path / "m.bin")

    with pytest.raises(InputFailed, match="fell silent, or sent less") as caught:
        await make(idle_s=0.2, min_rate=1e9, tries=2, per_file=1).download(wanted)
    assert caught.value.retryable


async def test_a_head_that_never_ends_is_left(make, tmp_path):
    """Each byte resets a socket's own clock; ours runs on."""

    async def drip(reader, writer):
        while True:
            writer.write(b"X")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with talking(drip) as port:
        with pytest.raises(InputFailed, match="fell silent"):
            await make(idle_s=0.2, tries=2).download(
                Wanted(f"http://127.0.0.1:{port}/m.bin", tmp_path / "m.bin")
            )


async def test_the_total_time_is_limited(host, make, tmp_path):
    """Retries included; what came stays for another try."""

    async def stop(sent):
        await asyncio.sleep(0 if sent < 1 << 20 else 3600)

    url = host.put("/m.bin", MODEL, pause=stop)

    with pytest.raises(InputFailed, match=r"not done within 0\.5 s"):
        await make(total_s=0.5).download(Wanted(url, tmp_path / "m.bin"))
    assert [name.rpartition(".")[2] for name in names(tmp_path)] == ["note", "part"]


@pytest.mark.parametrize("told", [True, False])
async def test_a_file_over_the_limit_is_refused(host, make, tmp_path, told):
    """By what the source tells, else while it comes."""
    url = host.put("/m.bin", SMALL, ranges=told, length=None if told else -1)

    with pytest.raises(InputFailed, match="larger than 5000 bytes"):
        await make(max_bytes=5000).download(Wanted(url, tmp_path / "m.bin"))
    assert names(tmp_path) == []


async def test_a_file_of_exactly_the_limit_passes(host, make, tmp_path):
    """The limit is the largest size that is allowed."""
    url = host.put("/m.bin", SMALL)
    got = await make(max_bytes=len(SMALL)).download(Wanted(url, tmp_path / "m.bin"))
    assert got.bytes == len(SMALL)


async def test_a_body_that_unpacks_to_more_than_the_limit_is_refused(host, make, tmp_path):
    """The bytes are counted as they are after unpacking."""
    packed = gzip.compress(bytes(8 << 20))
    url = host.put("/bomb", packed, ranges=False, headers={"Content-Encoding": "gzip"})
    with pytest.raises(InputFailed, match="larger than 4000000 bytes"):
        await make(max_bytes=4_000_000).download(Wanted(url, tmp_path / "m.bin"))
    assert names(tmp_path) == []


async def test_a_file_may_have_limits_of_its_own(host, make, tmp_path):
    """They win over the downloader's, in both directions."""
    url = host.put("/m.bin", SMALL)
    with pytest.raises(InputFailed, match="larger than 10 bytes"):
        await make().download(Wanted(url, tmp_path / "m.bin", max_bytes=10))
    got = await make(max_bytes=10).download(Wanted(url, tmp_path / "m.bin", max_bytes=1 << 30))
    assert got.bytes == len(SMALL)
    failing = host.put("/f.bin", SMALL, statuses=[(503, {})] * 9)
    before = len(host.requests)
    with pytest.raises(InputFailed, match="503"):
        await make().download(Wanted(failing, tmp_path / "f.bin", tries=2))
    assert len(host.requests) - before == 2

    async def stop(_sent):
        await asyncio.sleep(3600)

    slow = host.put("/s.bin", SMALL, pause=stop)
    with pytest.raises(InputFailed, match=r"not done within 0\.2 s"):
        await make().download(Wanted(slow, tmp_path / "s.bin", total_s=0.2))


async def test_a_source_that_asks_to_wait_too_long_is_not_waited_for(host, make, tmp_path):
    """The caller learns how long instead."""
    url = host.put("/m.bin", SMALL, statuses=[(503, {"Retry-After": "3600"})])
    with pytest.raises(InputFailed, match="503") as caught:
        await make(total_s=60.0).download(Wanted(url, tmp_path / "m.bin"))
    assert (caught.value.retryable, caught.value.retry_after_s) == (True, 3600)
    assert len(host.requests) == 1


async def test_passing_statuses_are_tried_again_and_final_ones_are_not(host, make, tmp_path):
    """503 and 429 pass; 404 does not."""
    url = host.put("/m.bin", SMALL, statuses=[(503, {}), (429, {"Retry-After": "0"})])

    await make().download(Wanted(url, tmp_path / "m.bin"))
    with pytest.raises(InputFailed, match="404"):
        await make().download(Wanted(host.url("/none"), tmp_path / "n.bin"))

    assert len(host.requests) == 4


async def test_a_part_that_is_refused_for_a_while_is_tried_again(host, make, tmp_path):
    """Some hosts allow few connections at once."""
    url = host.put("/m.bin", MODEL)
    refuse = iter([False, True, True, False, True])

    def sometimes(_):
        if next(refuse, False):
            host.files["/m.bin"].statuses.append((503, {}))

    host.files["/m.bin"].before = sometimes

    await make().download(Wanted(url, tmp_path / "m.bin"))
    assert (tmp_path / "m.bin").read_bytes() == MODEL


async def test_a_hundred_callers_of_one_url_fetch_it_once(host, make, tmp_path):
    """All get the same answer."""
    url = host.put("/m.safetensors", MODEL)
    downloader = make()
    wanted = Wanted(url, tmp_path / "m.safetensors")

    answers = await asyncio.gather(*(downloader.download(wanted) for _ in range(100)))

    assert host.served == len(MODEL)
    assert len(set(answers)) == 1


async def test_a_hundred_callers_get_a_fault_each_of_their_own(host, make, tmp_path):
    """Each adds its place to it."""
    downloader = make()
    wanted = Wanted(host.url("/none"), tmp_path / "m.bin")

    faults = await asyncio.gather(
        *(downloader.download(wanted) for _ in range(100)), return_exceptions=True
    )

    assert len(host.requests) == 1
    assert len({id(fault) for fault in faults}) == 100
    assert faults[0].at("here", "1", "X").location != faults[1].location


async def test_a_caller_who_leaves_does_not_stop_the_others(host, make, tmp_path):
    """The download ends when the last one has left."""
    gate = asyncio.Event()

    async def wait(_sent):
        await gate.wait()

    url = host.put("/m.bin", SMALL, pause=wait)
    downloader = make()
    wanted = Wanted(url, tmp_path / "m.bin")
    first, second = (asyncio.create_task(downloader.download(wanted)) for _ in range(2))
    while not host.requests:
        await asyncio.sleep(0.001)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.set()

    assert (await second).bytes == len(SMALL)
    assert len(host.requests) == 1


async def test_the_last_caller_who_leaves_ends_it_at_once_and_the_next_one_goes_on(
    host, make, tmp_path
):
    """A blocked read is woken; what came is not fetched again."""
    stuck = asyncio.Event()

    async def stick(sent):
        if sent >= 600_000:
            stuck.set()
            await asyncio.Event().wait()

    body = safetensors(1_000_000)
    url = host.put("/m.bin", body, pause=stick)
    downloader = make(min_piece=8 << 20)
    wanted = Wanted(url, tmp_path / "m.bin")
    task = asyncio.create_task(downloader.download(wanted))
    await stuck.wait()
    while not (part := next(tmp_path.glob(".*.part"), None)) or part.stat().st_size < 600_000:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert repr(downloader) == "<Downloader 0 under way>"

    host.files["/m.bin"].pause = None
    got = await downloader.download(wanted)

    assert got.resumed_bytes >= 600_000
    assert host.served < len(body) + 200_000
    assert (tmp_path / "m.bin").read_bytes() == body


async def test_other_credentials_are_another_download(host, make, tmp_path):
    """Who may not read the file does not get it from who may."""
    url = host.put("/m.bin", MODEL, wants={"authorization": "Bearer good"})
    downloader = make()
    good = Wanted(url, tmp_path / "m.bin", auth=BearerAuth(token="good"))
    bad = Wanted(url, tmp_path / "m.bin", auth=BearerAuth(token="bad"))

    answers = await asyncio.gather(
        downloader.download(good), downloader.download(bad), return_exceptions=True
    )

    assert answers[0].bytes == len(MODEL)
    assert isinstance(answers[1], AccessDenied)
    assert "bad" not in repr(answers[1].envelope()) + repr(bad)


async def test_a_changed_file_is_not_resumed(host, make, tmp_path):
    """What is on disk of the old one is forgotten."""
    url = host.put("/m.bin", MODEL, drops=[5 << 20] + [0] * 20)
    wanted = Wanted(url, tmp_path / "m.bin")
    with pytest.raises(InputFailed):
        await make(tries=2, per_file=1).download(wanted)
    new = safetensors(40 << 20, seed=3)
    host.put("/m.bin", new, etag='"v2"')

    got = await make().download(wanted)

    assert got.resumed_bytes == 0
    assert (tmp_path / "m.bin").read_bytes() == new


async def test_without_a_version_only_a_hash_allows_to_resume(host, make, tmp_path):
    """And where the hash is wrong then, it is fetched anew once."""
    true = hashlib.sha256(MODEL).hexdigest()
    target = tmp_path / "m.bin"

    async def begin():
        host.put("/m.bin", MODEL, etag=None, drops=[5 << 20] + [0] * 20)
        with pytest.raises(InputFailed):
            await make(tries=2, per_file=1).download(Wanted(host.url("/m.bin"), target))
        host.put("/m.bin", MODEL, etag=None)

    await begin()
    assert (await make().download(Wanted(host.url("/m.bin"), target))).resumed_bytes == 0
    await begin()
    got = await make().download(Wanted(host.url("/m.bin"), target, sha256=true))
    assert got.resumed_bytes > 0
    await begin()
    part = next(tmp_path.glob(".*.part"))
    with part.open("r+b") as file:
        file.write(random.Random(5).randbytes(1000))
    got = await make().download(Wanted(host.url("/m.bin"), target, sha256=true))
    assert (got.resumed_bytes, target.read_bytes() == MODEL) == (0, True)


async def test_a_note_that_makes_no_sense_is_ignored(host, make, tmp_path):
    """The download begins anew."""
    url = host.put("/m.bin", MODEL, drops=[5 << 20] + [0] * 20)
    wanted = Wanted(url, tmp_path / "m.bin")
    with pytest.raises(InputFailed):
        await make(tries=2, per_file=1).download(wanted)
    note = next(tmp_path.glob(".*.note"))
    told = json.loads(note.read_text())
    assert url not in note.read_text()
    note.write_text("{" + json.dumps(told))
    host.files["/m.bin"].drops = []

    assert (await make().download(wanted)).resumed_bytes == 0
    assert (tmp_path / "m.bin").read_bytes() == MODEL


async def test_all_connections_together_are_limited(host, make, tmp_path):
    """However many files come."""
    urls = [host.put(f"/{number}.bin", MODEL[: 5 << 20]) for number in range(6)]
    downloader = make(connections=3)

    await asyncio.gather(*(downloader.download(Wanted(url, tmp_path / url[-5:])) for url in urls))

    assert host.most_open <= 3
    assert all((tmp_path / url[-5:]).read_bytes() == MODEL[: 5 << 20] for url in urls)


async def test_room_is_asked_for_before_and_a_file_that_does_not_fit_is_refused(
    host, make, tmp_path
):
    """The numbers are told, and not a byte more than the source's first answer is taken."""
    url = host.put("/m.bin", MODEL)
    asked = []

    async def make_room(folder, count):
        asked.append((folder, count))

    with pytest.raises(Exception, match="does not fit") as caught:
        await make(make_room=make_room, spare_disk=1 << 60).download(
            Wanted(url, tmp_path / "m.bin")
        )

    assert asked == [(tmp_path, len(MODEL))]
    assert (caught.value.code, caught.value.status) == ("disk_full", 507)
    assert names(tmp_path) == []


async def test_a_listener_that_fails_does_not_end_the_download(host, make, tmp_path):
    """It is told in the log."""
    url = host.put("/m.bin", SMALL)

    def fail(_):
        raise ValueError("a listener")

    assert (await make().download(Wanted(url, tmp_path / "m.bin"), fail)).bytes == len(SMALL)


async def test_a_folder_that_cannot_be_written_is_our_fault(host, make, tmp_path):
    """A file is where the folder should be."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(Exception, match="cannot be stored") as caught:
        await make().download(Wanted(host.put("/m.bin", SMALL), tmp_path / "file" / "m.bin"))
    assert caught.value.code == "internal_error"


async def test_a_question_fetches_nothing(host, make):
    """What the source tells, and whether it would."""
    host.put("/m.bin", MODEL, wants={"authorization": "Bearer good"})
    downloader = make()

    remote = await downloader.stat(host.url("/m.bin"), BearerAuth(token="good"))
    with pytest.raises(AccessDenied, match="401"):
        await downloader.stat(host.url("/m.bin"), None)

    assert (remote.size, remote.etag, remote.ranges) == (len(MODEL), '"v1"', True)
    assert host.requests[1].headers["range"] == "bytes=0-0"
    assert "http" not in repr(remote)


async def _process(*arguments):
    root = Path(__file__).parents[3]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sources.fetching", *map(str, arguments)),
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"},
        stdout=asyncio.subprocess.PIPE,
    )


async def test_a_killed_process_leaves_what_the_next_one_goes_on_with(host, tmp_path):
    """Only the rest is fetched, and the bytes are right."""

    async def stop(sent):
        if sent >= 6 << 20:
            await asyncio.Event().wait()

    target = tmp_path / "m.safetensors"
    host.files["/m"] = File(MODEL, pause=stop)
    first = await _process(host.url("/m"), target, 0)
    noted = 0
    while noted < 16 << 20:
        await asyncio.sleep(0.01)
        for note in tmp_path.glob(".*.note"):
            with contextlib.suppress(ValueError):
                noted = sum(end - start for start, end in json.loads(note.read_text())["done"])
    first.kill()
    await first.wait()
    assert not target.exists()
    noted = json.loads(next(tmp_path.glob(".*.note")).read_text())["done"]
    host.files["/m"], host.served = File(MODEL), 0

    second = await _process(host.url("/m"), target, 0)
    told = json.loads((await second.communicate())[0])

    there = sum(end - start for start, end in noted)
    assert told == {"bytes": len(MODEL), "resumed": there}
    assert host.served == len(MODEL) - there
    assert target.read_bytes() == MODEL
    assert names(tmp_path) == ["m.safetensors"]


async def test_a_disk_that_fills_up_meanwhile_is_told_and_left_clean(host, tmp_path):
    """The check before cannot know who else writes."""
    url = host.put("/m", MODEL)

    process = await _process(url, tmp_path / "m.safetensors", 20 << 20)
    told = json.loads((await process.communicate())[0])

    assert (told["code"], told["statusCode"], told["retryable"]) == ("disk_full", 507, True)
    assert "cannot be stored: File too large" in told["error"]
    assert names(tmp_path) == []


async def test_two_processes_fetch_one_file_after_the_other(host, tmp_path):
    """They never write into each other's bytes."""
    url = host.put("/m", MODEL)

    both = [await _process(url, tmp_path / "m.safetensors", 0) for _ in range(2)]
    told = [json.loads((await process.communicate())[0]) for process in both]

    assert [one["bytes"] for one in told] == [len(MODEL)] * 2
    assert (tmp_path / "m.safetensors").read_bytes() == MODEL
    assert names(tmp_path) == ["m.safetensors"]


async def test_a_size_beyond_the_disk_costs_nobody_their_files(host, make, tmp_path):
    """A source may tell any: nothing is removed to make room for it."""
    url = host.put("/m.bin", SMALL, ranges=False, length=10**18)
    asked = []

    async def make_room(folder, count):
        asked.append((folder, count))

    with pytest.raises(DiskFull, match="does not fit"):
        await make(make_room=make_room).download(Wanted(url, tmp_path / "m.bin"))

    assert (asked, names(tmp_path)) == ([], [])


async def test_a_fleet_on_one_volume_fetches_a_file_once(host, make, tmp_path):
    """Who waited for another process's download takes what it brought, if it has the right to."""
    gate = asyncio.Event()

    async def wait(_sent):
        await gate.wait()

    url = host.put("/m", MODEL, pause=wait, wants={"authorization": "Bearer good"})
    target = tmp_path / "m.safetensors"
    good, bad = BearerAuth(token="good"), BearerAuth(token="bad")
    true = hashlib.sha256(MODEL).hexdigest()
    asks = [
        Wanted(url, target, auth=good),
        Wanted(url, target, auth=good),
        Wanted(url, target, auth=good, sha256=true),
        Wanted(url, target, auth=good, sha256="0" * 64),
        Wanted(url, target, auth=bad),
    ]
    tasks = []
    for wanted in asks:
        tasks.append(asyncio.create_task(make().download(wanted)))
        for _ in range(20):
            await asyncio.sleep(0)  # the first one has the part, the others wait for it
    gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert [answer.resumed_bytes for answer in answers[:3]] == [0, len(MODEL), len(MODEL)]
    assert answers[2].sha256 == true
    assert isinstance(answers[3], Corrupt)
    assert isinstance(answers[4], AccessDenied)
    assert target.read_bytes() == MODEL
    assert names(tmp_path) == ["m.safetensors"]


async def test_two_urls_for_one_name_are_never_mixed(host, make, tmp_path):
    """Each comes under a temporary name of its own; the last one whole has the final name."""
    bodies = [safetensors(20 << 20, seed=seed) for seed in (1, 2)]
    urls = [host.put(f"/{seed}/m.safetensors", body) for seed, body in enumerate(bodies)]
    downloader = make()

    got = await asyncio.gather(
        *(downloader.download(Wanted(url, tmp_path / "m.safetensors")) for url in urls)
    )

    assert [one.resumed_bytes for one in got] == [0, 0]
    assert (tmp_path / "m.safetensors").read_bytes() in bodies
    assert names(tmp_path) == ["m.safetensors"]


async def test_a_question_that_is_drawn_out_is_ended(host, make):
    """Redirect after redirect, each in time: it must not hold a connection for minutes."""

    async def lead_on(reader, writer):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.1)
            writer.write(b"HTTP/1.1 302 So\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

    async with talking(lead_on) as port:
        downloader = make(idle_s=0.15)
        with pytest.raises(InputFailed, match=r"no answer within 0\.6 s") as caught:
            await downloader.stat(f"http://127.0.0.1:{port}/m")
        assert caught.value.retryable


async def test_slow_downloads_keep_no_question_waiting(host, make, tmp_path):
    """Who may have what is here already is told while all connections are held."""
    go = asyncio.Event()
    host.put("/slow", SMALL, pause=lambda _: go.wait())
    host.put("/m", SMALL)
    downloader = make(connections=1)
    slow = asyncio.create_task(downloader.download(Wanted(host.url("/slow"), tmp_path / "s")))
    while not host.requests:
        await asyncio.sleep(0)

    assert (await downloader.stat(host.url("/m"))).size == len(SMALL)
    go.set()
    await slow


async def test_what_nobody_took_up_for_a_week_goes_with_the_next_download(host, make, tmp_path):
    """Into the same folder; what is younger stays for another try."""
    for name, days in (("old", 8), ("young", 6)):
        url = host.put(f"/{name}", MODEL, drops=[5 << 20] + [0] * 20)
        with pytest.raises(InputFailed):
            await make(tries=2, per_file=1).download(Wanted(url, tmp_path / f"{name}.bin"))
        (part,) = tmp_path.glob(f".{name}.*.part")
        at = time.time() - days * 86400
        os.utime(part, (at, at))

    await make().download(Wanted(host.put("/m", SMALL), tmp_path / "m.bin"))

    left = names(tmp_path)
    assert [name.split(".")[1] for name in left[:2]] == ["young", "young"]
    assert left[2:] == ["m.bin"]


async def test_slow_files_of_one_host_keep_no_others_waiting(host, make, tmp_path):
    """They hold no more than their share of the connections, for however long."""
    go = asyncio.Event()
    slow = host.put("/slow", SMALL, pause=lambda _: go.wait())
    quick = host.put("/quick", SMALL).replace("127.0.0.1", "localhost")
    downloader = make(connections=4, per_host=3, allow="127.0.0.1,localhost")
    tasks = [
        asyncio.create_task(downloader.download(Wanted(slow, tmp_path / f"s{place}")))
        for place in range(8)
    ]
    while host.open < 3:
        await asyncio.sleep(0.01)

    await asyncio.wait_for(downloader.download(Wanted(quick, tmp_path / "q")), 10)

    assert host.most_open == 4
    go.set()
    await asyncio.gather(*tasks)
