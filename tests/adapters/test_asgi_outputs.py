"""Kept outputs over HTTP: byte for byte, in parts, as one file, and harmless in a browser."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import zipfile
from pathlib import Path

import pytest
from http_worker import LATER, fault, served
from running import TWO, playing
from worker import GRAPH, until

from adapters.asgi_outputs import CACHE
from handler.engine.events import NodeOutput, NodeStarted, Started, Succeeded
from handler.engine.memory import PIXEL, write_picture
from handler.settings import Settings

SIZE = 700_001  # several blocks, and no round number
NAME = "me_x_00001_.png"


@pytest.fixture
async def kept(tmp_path):
    """A client of a server that keeps one output of noise; the noise, the path, the headers."""
    async with served(tmp_path, script=playing(size=SIZE)) as (client, _, _):
        path, whole = await begun(client)
        yield client, whole.content, path, whole.headers


async def begun(client, prompt=GRAPH, **keys):
    """Have a job run, and give the path of its first output and the answer to a GET of it."""
    body = {"prompt": prompt, "id": "me", **keys}
    assert (await client.post("/prompt", json=body, headers=LATER)).status_code == 202
    await client.get("/jobs/me/events")
    record = (await client.get("/jobs/me")).json()
    path = record["outputs"][0]["href"]
    return path, await client.get(path)


async def test_an_output_comes_byte_for_byte(kept):
    """With what it is, and how it may be kept."""
    client, data, path, headers = kept
    digest = hashlib.sha256(data).hexdigest()
    record = (await client.get("/jobs/me")).json()["outputs"][0]

    assert len(data) == SIZE
    assert (record["bytes"], record["sha256"], record["href"]) == (SIZE, digest, path)
    assert headers["content-length"] == str(SIZE)
    assert headers["etag"] == f'"{digest}"'
    assert headers["content-type"] == record["mime"]
    assert headers["accept-ranges"] == "bytes"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == CACHE
    assert record["name"] in headers["content-disposition"]


async def test_every_part_is_what_a_slice_gives(kept):
    """At random places, and around the borders of blocks and of the file."""
    client, data, path, _ = kept
    drawn = random.Random(4711)
    edges = [0, 1, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, SIZE - 1, SIZE, SIZE + 5]
    places = [(a, b) for a in edges[:-2] for b in edges if a <= b]
    places += [tuple(sorted(drawn.sample(range(SIZE), 2))) for _ in range(20)]
    for first, last in places:
        part = await client.get(path, headers={"Range": f"bytes={first}-{last}"})
        end = min(last, SIZE - 1)
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{end}/{SIZE}"
        assert part.headers["content-length"] == str(end - first + 1)
        assert part.content == data[first : last + 1]
    for count in (1, 5, (1 << 18) + 1, SIZE, SIZE + 1):
        part = await client.get(path, headers={"Range": f"bytes=-{count}"})
        assert (part.status_code, part.content) == (206, data[-count:])
    for first in (0, 1, SIZE - 1):
        part = await client.get(path, headers={"Range": f"bytes={first}-"})
        assert (part.status_code, part.content) == (206, data[first:])


async def test_a_download_that_broke_off_is_continued(kept):
    """Piece by piece, as long as it is the same file."""
    client, data, path, headers = kept
    got = b""
    while len(got) < SIZE:
        wanted = {"Range": f"bytes={len(got)}-", "If-Range": headers["etag"]}
        async with client.stream("GET", path, headers=wanted) as response:
            assert response.status_code == 206
            async for block in response.aiter_bytes(100_000):
                got += block
                break
    assert got == data
    other = {"Range": "bytes=5-", "If-Range": '"another"'}
    assert (await client.get(path, headers=other)).content == data


@pytest.mark.parametrize("wanted", [f"bytes={SIZE}-", "bytes=-0"])
async def test_what_is_behind_the_end_is_refused(kept, wanted):
    """416, with the size."""
    client, _, path, _ = kept
    answer = await client.get(path, headers={"Range": wanted})
    fault(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "lines=1-2", "bytes=2-1"])
async def test_what_cannot_be_served_as_a_part_is_served_whole(kept, wanted):
    """The standard says so."""
    client, data, path, _ = kept
    answer = await client.get(path, headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, data)


async def test_who_has_it_is_not_sent_it_again(kept):
    """304, before any part."""
    client, data, path, headers = kept
    tags = {"If-None-Match": f'"x", W/{headers["etag"]}'}
    same = await client.get(path, headers={**tags, "Range": "bytes=0-1"})
    other = await client.get(path, headers={"If-None-Match": '"x"'})
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["etag"] == headers["etag"]
    assert other.content == data


async def test_a_head_tells_what_a_get_would(kept):
    """Without the bytes; parts are of GET only."""
    client, _, path, headers = kept
    head = await client.head(path, headers={"Range": "bytes=0-1"})
    assert (head.status_code, head.content) == (200, b"")
    told = ("content-length", "content-type", "etag", "content-disposition", "accept-ranges")
    assert [head.headers[name] for name in told] == [headers[name] for name in told]


async def test_many_read_at_once_and_some_leave(kept):
    """Those who stay have it all; nothing is left open."""
    client, data, path, _ = kept

    async def leaves():
        async with client.stream("GET", path) as response:
            await anext(response.aiter_bytes(1000))

    async def stays():
        return (await client.get(path)).content == data

    found = await asyncio.gather(*(stays() if n % 2 else leaves() for n in range(16)))
    assert found[1::2] == [True] * 8


async def test_what_is_not_kept_is_told(kept):
    """With the names that are."""
    client, _, path, _ = kept
    told = fault(await client.get("/jobs/me/outputs/other.png"), 404, "not_found")
    assert told["details"] == {"status": "succeeded", "kept": [path.rpartition("/")[2]]}


async def test_outputs_expire(tmp_path):
    """After OUTPUT_RETENTION_S of nothing, nothing was kept."""
    async with served(tmp_path, Settings(output_retention_s=0)) as (client, _, _):
        body = {"prompt": GRAPH, "id": "me"}
        await client.post("/prompt", json=body, headers={"Idempotency-Key": "k"})
        record = (await client.get("/jobs/me")).json()
        assert "href" not in record["outputs"][0]
        fault(await client.get(f"/jobs/me/outputs/{NAME}"), 404, "not_found")
        fault(await client.get("/jobs/me/archive"), 404, "not_found")


def telling(**files):
    """Make a script whose one node gives these files and texts."""

    async def script(prompt, engine_files):
        yield Started(1)
        yield NodeStarted("2")
        prefix = prompt.graph["2"]["inputs"]["filename_prefix"]
        told = {"images": [], "text": []}
        for name, data in files.items():
            if isinstance(data, str):
                told["text"].append(data)
                continue
            item = write_picture(engine_files, prefix, data)
            at = engine_files.locate(item)
            target = at.with_suffix(f".{name.partition('_')[0]}")
            at.rename(target)
            told["images"].append({**item, "filename": target.name})
        yield NodeOutput("2", told)
        yield Succeeded(2)

    return script


SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"><script>alert(1)</script></svg>'
)
HTML = b"<!doctype html><html><body><script>alert(1)</script></body></html>"


@pytest.mark.parametrize(
    ("files", "kind", "shown"),
    [
        ({"png": PIXEL}, "image/png", True),
        ({"svg": SVG}, "image/svg+xml", False),
        ({"html": HTML}, "text/html", False),
        ({"bin": b"\x00\x01\x02"}, "application/octet-stream", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_could_run_in_a_browser_does_not(tmp_path, files, kind, shown):
    """A stranger's page is downloaded, and has no rights of our origin where it is shown."""
    async with served(tmp_path, script=telling(**files)) as (client, _, _):
        _, answer = await begun(client)
    headers = answer.headers
    assert answer.content == next(iter(files.values()))
    assert headers["content-type"].split(";")[0] == kind
    assert headers["content-disposition"].startswith("inline" if shown else "attachment")
    assert ("sandbox" in headers.get("content-security-policy", "")) is not shown
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_text_is_an_output_as_well(tmp_path):
    """In UTF-8, and said so."""
    async with served(tmp_path, script=telling(txt="grüße\n")) as (client, _, _):
        path, answer = await begun(client)
        part = await client.get(path, headers={"Range": "bytes=2-3"})
    assert answer.text == "grüße\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert part.content == "ü".encode()


async def test_an_empty_output_is_served(tmp_path):
    """A part of nothing is none."""
    async with served(tmp_path, script=telling(bin=b"")) as (client, _, _):
        path, answer = await begun(client)
        last = await client.get(path, headers={"Range": "bytes=-5"})
        part = await client.get(path, headers={"Range": "bytes=0-"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == "0"
    assert last.status_code == 200
    assert part.status_code == 416


async def test_names_with_spaces_and_unicode_are_found(tmp_path):
    """As the record quotes them."""
    graph = {**GRAPH, "2": {"class_type": "SaveImage", "inputs": {**GRAPH["2"]["inputs"]}}}
    graph["2"]["inputs"]["filename_prefix"] = "ein Bild ü"
    async with served(tmp_path) as (client, _, _):
        path, answer = await begun(client, graph)
    assert answer.content == PIXEL
    assert path.isascii()


# -- all as one file ------------------------------------------------------------------------------


async def test_all_outputs_come_as_one_file(tmp_path):
    """With its length, its name and every output in it."""
    async with served(tmp_path, script=playing(size=SIZE, texts=["words"])) as (client, _, _):
        await begun(client, TWO)
        outputs = (await client.get("/jobs/me")).json()["outputs"]
        answer = await client.get("/jobs/me/archive")
        head = await client.head("/jobs/me/archive")

    assert answer.headers["content-length"] == head.headers["content-length"]
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="me.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        found = {
            name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()
        }
    assert found == {one["name"]: one["sha256"] for one in outputs}
    assert len(found) == 4


async def test_an_archive_of_what_is_gone_is_refused(tmp_path):
    """Before anything is sent."""
    async with served(tmp_path) as (client, _, _):
        path, _ = await begun(client)
        for file in (tmp_path / "state").rglob("outputs/*/*/*"):
            file.unlink()
        fault(await client.get("/jobs/me/archive"), 404, "not_found")
        fault(await client.get(path), 404, "not_found")


async def test_who_leaves_an_archive_early_holds_nothing(tmp_path):
    """Its files are closed; the server goes on."""
    async with served(tmp_path, script=playing(size=20 * SIZE)) as (client, _, _):
        await begun(client, TWO)
        for _ in range(3):
            async with client.stream("GET", "/jobs/me/archive") as response:
                await anext(response.aiter_bytes(1000))
        await until(lambda: not open_below(tmp_path / "state"))
        assert (await client.get("/jobs/me/archive")).status_code == 200


def open_below(folder):
    """List the kept outputs that this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = link.readlink()
        except OSError:
            continue
        if target.is_relative_to(folder) and "outputs" in target.parts:
            found.append(target)
    return found
