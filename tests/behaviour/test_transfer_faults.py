"""Transfers from real servers that die, and from hosts that want something else than to serve."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import boto3
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer
from sources.host import hosting, safetensors
from sources.nginx import nginx

from handler.credentials import BearerAuth, S3Auth
from handler.errors import InputFailed, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.transfer.base import AccessDenied
from handler.transfer.download import Downloader
from handler.transfer.records import Limits, Wanted
from handler.transfer.sources import Sources, SourceSettings
from handler.transfer.threads import Threads

TESTS = Path(__file__).parents[1]
MODEL = safetensors(48 << 20)
SMALL = safetensors(100_000)
SECRET = "canary4711"

needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx on the PATH")


@pytest.fixture
async def host():
    async with hosting() as running:
        yield running


@pytest.fixture
async def fetch(tmp_path):
    """Fetch a URL to `got` by whichever source it is for; `names` are known here only."""
    made = []

    def build(names=None, allow="127.0.0.1", **limits):
        async def resolver(name, _port):
            return [(names or {})[name]]

        threads = Threads()
        sources = Sources(SourceSettings(), AddressPolicy(allow, resolver), threads)
        small = {"min_piece": 4 << 20, "spare_disk": 0, "backoff_s": 0.1}
        made.append(Downloader(sources, threads=threads, limits=Limits(**{**small, **limits})))

        async def fetch(url, auth=None, **wanted):
            target = tmp_path / "got" / "m.safetensors"
            return await made[-1].download(Wanted(url, target, auth=auth, **wanted))

        return fetch

    yield build
    for downloader in made:
        await downloader.close()


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "got").iterdir())


@needs_nginx
@pytest.mark.nginx
async def test_a_file_of_nginx_comes_in_parts_over_several_connections(fetch, tmp_path):
    """Each byte once."""
    with nginx(tmp_path / "nginx") as server:
        (server.www / "m.safetensors").write_bytes(MODEL)
        await fetch()(f"http://127.0.0.1:{server.port}/m.safetensors")
        server.stop()
        sent = server.sent()

    assert (tmp_path / "got" / "m.safetensors").read_bytes() == MODEL
    assert {one.status for one in sent} == {206}
    assert 1 < len({one.connection for one in sent}) <= 4
    assert sum(one.bytes for one in sent) == len(MODEL)
    assert left(tmp_path) == ["m.safetensors"]


@needs_nginx
@pytest.mark.nginx
async def test_a_server_that_is_killed_and_comes_back_is_asked_for_the_rest(fetch, tmp_path):
    """All connections break at once; the same download goes on."""
    with nginx(tmp_path / "nginx", rate="6m") as server:
        (server.www / "m.safetensors").write_bytes(MODEL)
        get = fetch()(f"http://127.0.0.1:{server.port}/m.safetensors")
        task = asyncio.create_task(get)
        there = 0
        while there < 12 << 20:
            await asyncio.sleep(0.01)
            for note in (tmp_path / "got").glob(".*.note"):
                done = json.loads(note.read_text() or '{"done": []}')["done"]
                there = sum(end - start for start, end in done)
        server.stop(signal.SIGKILL)
        server.sent()
        server.start()
        await task
        server.stop()
        sent = server.sent()

    assert (tmp_path / "got" / "m.safetensors").read_bytes() == MODEL
    assert 0 < sum(one.bytes for one in sent) <= len(MODEL) - there


@pytest.mark.parametrize(
    ("site", "token"), [("civitai.com", "CIVITAI_API_TOKEN"), ("huggingface.co", "HF_TOKEN")]
)
@pytest.mark.parametrize("how", ["page", "redirect", "message", "refusal"])
async def test_a_login_in_place_of_a_model_names_the_provider_and_its_token(
    fetch, host, tmp_path, site, token, how
):
    """A page, a way to one, a message in JSON, or a plain refusal."""
    page = b"<!DOCTYPE html><title>Sign in</title>"
    host.put("/login", page, content_type="text/html")
    if how == "redirect":
        host.redirects["/api/m"] = "/login"
    elif how == "refusal":
        host.put("/api/m", SMALL, wants={"authorization": "Bearer x"})
    else:
        body = page if how == "page" else b'{"error": "Unauthorized"}'
        host.put("/api/m", body, content_type="binary/octet-stream")

    with pytest.raises(InputFailed, match=site.replace(".", r"\.")) as caught:
        await fetch({site: "127.0.0.1"})(f"http://{site}:{host.port}/api/m?key={SECRET}")

    assert token in caught.value.hint
    assert SECRET not in str(caught.value.envelope())
    assert left(tmp_path) == []


DIALLED: list[str] = []


@functools.cache
def listen_to_dialling():
    """Have the interpreter tell of connections; it offers no way to end that."""

    def note(event, arguments):
        if event == "socket.connect":
            DIALLED.append(str(arguments[1][0]))

    sys.addaudithook(note)


@pytest.mark.parametrize(
    "place",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://2852039166/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://metadata.test/",
        "http://10.0.0.1/",
    ],
)
async def test_a_redirect_inwards_is_refused_and_never_dialled(fetch, host, tmp_path, place):
    """Told by the interpreter itself, of every connection that is tried."""
    listen_to_dialling()
    host.redirects["/m"] = place
    host.put("/n", MODEL)

    def lead_inwards(request):
        if request.span and request.span[0]:
            host.redirects["/n"] = place  # only once the download is under way

    host.files["/n"].before = lead_inwards
    host.files["/n"].drops = [1 << 20]
    get = fetch({"metadata.test": "169.254.169.254"})
    DIALLED.clear()

    for path in ("/m", "/n"):
        with pytest.raises(UrlNotAllowed):
            await get(host.url(path))

    assert set(DIALLED) == {"127.0.0.1"}
    assert "169.254" not in str(left(tmp_path))


@pytest.mark.parametrize("told", [True, False])
async def test_a_disk_that_is_too_small_is_told_and_left_clean(host, told):
    """Before anything is fetched where the size is told, else when it is full."""
    url = host.put("/m", MODEL, ranges=told, length=None if told else -1)
    script = (
        'mount -t tmpfs -o size=20m tmpfs "$1" && cd "$1" || exit 9; '
        '"$2" -m sources.fetching "$3" "$1/m.safetensors" 0; echo; ls -A'
    )
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--map-root-user", "--mount", "sh", "-c", script),
        *("sh", "/mnt", sys.executable, url),
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, _ = await process.communicate()
    if process.returncode in {1, 9} and not out.strip():
        pytest.skip("a small disk cannot be made here")
    answer, *files = out.decode().splitlines()

    assert (json.loads(answer)["code"], files) == ("disk_full", [])
    assert ("does not fit" if told else "No space left on device") in json.loads(answer)["error"]
    assert (host.served < 1 << 24) or not told


@pytest.fixture
async def strict_store():
    """A store that knows no checksums of its clients, before moto's; and what it refused."""
    behind = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    behind.start()
    address = "http://{}:{}".format(*behind.get_host_and_port())
    keys = {"aws_access_key_id": "AK", "aws_secret_access_key": SECRET}
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)
    client.create_bucket(Bucket="models")
    client.put_object(Bucket="models", Key="a/m.safetensors", Body=MODEL)
    client.close()
    refused = []
    session = aiohttp.ClientSession(auto_decompress=False)

    async def pass_on(request):
        text = str(dict(request.headers) | dict(request.query)).lower()
        if any(word in text for word in ("checksum", "x-amz-trailer", "aws-chunked", "streaming-")):
            refused.append(request.path)
            return web.Response(status=501, text="<Error><Code>NotImplemented</Code></Error>")
        headers = {k: v for k, v in request.headers.items() if k in {"Range", "If-Range"}}
        async with session.get(f"{address}{request.path_qs}", headers=headers) as answer:
            body = await answer.read()
            kept = {"ETag", "Content-Range", "Content-Type"}
            told = {k: v for k, v in answer.headers.items() if k in kept}
            return web.Response(status=answer.status, headers=told, body=body)

    runner = web.ServerRunner(web.Server(pass_on), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", refused
    await runner.cleanup()
    await session.close()
    behind.stop()


async def test_a_store_that_refuses_checksums_gives_its_objects(fetch, tmp_path, strict_store):
    """boto3 asks for them by default; what signs a link does not."""
    endpoint, refused = strict_store
    auth = S3Auth(access_key_id="AK", secret_access_key=SECRET, endpoint=endpoint)

    got = await fetch()("s3://models/a/m.safetensors", auth)

    assert (tmp_path / "got" / "m.safetensors").read_bytes() == MODEL
    assert (got.bytes, refused) == (len(MODEL), [])


async def test_who_lacks_the_right_costs_the_next_one_nothing(fetch, host, tmp_path):
    """What is on disk of a broken download stays, and the right credentials go on with it."""
    url = host.put("/m", MODEL, drops=[20 << 20] + [0] * 20, wants={"authorization": "Bearer good"})
    with pytest.raises(InputFailed):
        await fetch(tries=2, per_file=1, min_piece=64 << 20)(url, BearerAuth(token="good"))
    host.files["/m"].drops, host.served = [], 0
    with pytest.raises(AccessDenied):
        await fetch()(url, BearerAuth(token=SECRET))

    got = await fetch()(url, BearerAuth(token="good"))

    assert got.resumed_bytes > 1 << 20
    assert host.served == len(MODEL) - got.resumed_bytes
    assert (tmp_path / "got" / "m.safetensors").read_bytes() == MODEL
