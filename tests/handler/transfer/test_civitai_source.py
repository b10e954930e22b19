"""Download links of Civitai, against a double of it: the file's host and the API are one."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import logging

import pytest
from sources.host import safetensors

from handler.credentials import BearerAuth, Credential, QueryAuth
from handler.errors import UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.transfer.download import Downloader
from handler.transfer.records import Wanted
from handler.transfer.sources import Sources, SourceSettings
from handler.transfer.verify import Corrupt

BODY, PRUNED = safetensors(50_000), safetensors(40_000)
LINK, API = "/api/download/models/77", "/api/v1/model-versions/77"
TOKEN = "canary4711"


def told(body, sha256=None, *, primary=False, kind="Model", **metadata):
    """Give one of the API's files."""
    sha256 = sha256 or hashlib.sha256(body).hexdigest().upper()
    return {
        "type": kind,
        "sizeKB": len(body) / 1024,
        "primary": primary,
        "metadata": {"format": "SafeTensor", **metadata},
        "hashes": {"AutoV2": "0" * 10, "SHA256": sha256},
    }


def answer(*files):
    return json.dumps({"id": 77, "files": files}).encode()


@pytest.fixture
def sources(host, threads):
    def build(allow="127.0.0.1", **settings):
        set_ = SourceSettings(civitai_hosts=(f"127.0.0.1:{host.port}",), **settings)
        return Sources(set_, AddressPolicy(allow), threads)

    return build


@pytest.fixture
def fetch(sources, threads, tmp_path):
    async def fetch(url, auth=None, **settings):
        downloader = Downloader(sources(**settings), threads=threads)
        return await downloader.download(Wanted(url, tmp_path / "m.safetensors", auth=auth))

    return fetch


def asked(host):
    return [request for request in host.requests if request.path == API]


async def test_what_came_is_held_against_the_published_hash(host, fetch):
    """The primary file's, where the link asks for no other; hashes are in capitals there."""
    url = host.put(LINK, BODY)
    host.put(API, answer(told(PRUNED), told(BODY, primary=True)))

    assert (await fetch(url)).sha256 == hashlib.sha256(BODY).hexdigest()


async def test_another_content_than_the_published_is_refused(host, fetch, tmp_path):
    """Nothing of it is left."""
    url = host.put(LINK, BODY)
    host.put(API, answer(told(BODY, "A" * 64, primary=True)))

    with pytest.raises(Corrupt, match="SHA-256"):
        await fetch(url)
    assert list(tmp_path.iterdir()) == []


async def test_the_file_that_the_link_asks_for_counts(host, fetch):
    """By type, format, size and fp, whatever their case; not the primary one's hash."""
    url = host.put(LINK, PRUNED)
    wrong = told(PRUNED, "A" * 64, primary=True, size="full", fp="fp32")
    right = told(PRUNED, size="pruned", fp="fp16")
    host.put(API, answer(wrong, right, told(PRUNED, "B" * 64, kind="VAE")))

    query = "?type=Model&format=SafeTensor&size=pruned&fp=fp16"
    assert (await fetch(url + query)).sha256 == hashlib.sha256(PRUNED).hexdigest()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"files": [1]}',
        b'{"files": [{"hashes": {"SHA256": "x"}}]}',
        b"[" * 100_000,
        answer(told(PRUNED, "A" * 64, primary=True)),
        answer(told(BODY, "A" * 64)),
        answer(told(BODY, "A" * 64, primary=True), told(BODY, "B" * 64, primary=True)),
        answer({**told(BODY, "A" * 64, primary=True), "sizeKB": 10**400}),
        b" " * (5 << 20),
    ],
    ids=range(12),
)
async def test_an_answer_that_does_not_fit_beyond_doubt_is_no_hash(host, fetch, body):
    """The wrong file's hash would refuse what is right."""
    url = host.put(LINK, BODY)
    host.put(API, body)

    assert (await fetch(url)).sha256 is None


async def test_a_packed_answer_is_read(host, fetch):
    """Some hosts pack though they are asked not to."""
    url = host.put(LINK, BODY)
    packed = gzip.compress(answer(told(BODY, primary=True)))
    host.put(API, packed, headers={"Content-Encoding": "gzip"})

    assert (await fetch(url)).sha256


async def test_an_api_that_fails_or_is_silent_costs_no_download(host, sources, threads, caplog):
    """It is only a line of the log."""
    caplog.set_level(logging.INFO, "comfyfn.transfer")
    url = host.put(LINK, BODY)
    source = sources()(url)

    async def told_hash():
        remote = await source.stat(url, None)
        await source.release(remote)
        return remote.sha256

    assert await told_hash() is None
    assert "does not tell the hash" in caplog.text

    go = asyncio.Event()
    host.put(API, answer(told(BODY, primary=True)), pause=lambda _: go.wait())
    source._patience_s = 0.05
    assert await told_hash() is None
    go.set()


async def test_the_api_is_asked_once_for_a_version(host, sources):
    """What it publishes for one stays."""
    url = host.put(LINK, BODY)
    host.put(API, answer(told(BODY, primary=True)))
    source = sources()(url)

    for _ in range(3):
        remote = await source.stat(url, None)
        await source.release(remote)
        assert remote.sha256 == hashlib.sha256(BODY).hexdigest()
    assert len(asked(host)) == 1


async def test_the_api_gets_the_credentials_of_the_link(host, fetch):
    """It is of the same origin; and they are in no text."""
    url = host.put(LINK, BODY)
    host.put(API, answer(told(BODY, primary=True)))
    default = Credential(
        url_pattern=f"http://127.0.0.1:{host.port}/**", auth=BearerAuth(token=TOKEN)
    )

    await fetch(url, BearerAuth(token=TOKEN))
    await fetch(url, QueryAuth(query_param="token", query_value=TOKEN))
    await fetch(f"{url}?token={TOKEN}&type=Model")
    await fetch(url, defaults=(default,))

    sent = [(request.headers.get("authorization"), request.query) for request in asked(host)]
    bearer = (f"Bearer {TOKEN}", "")
    assert sent == [bearer, (None, f"token={TOKEN}"), (None, f"token={TOKEN}"), bearer]


async def test_the_address_policy_holds_for_both(host, sources):
    """Nothing is asked of where no URL may lead."""
    url = host.put(LINK, BODY)
    source = sources(allow="")(url)

    with pytest.raises(UrlNotAllowed):
        await source.admit(url)
    with pytest.raises(UrlNotAllowed):
        await source.stat(url, None)
    assert host.requests == []


async def test_other_paths_of_the_site_are_fetched_as_they_are(host, sources):
    """Pictures, for one; and other hosts have no such API."""
    assert type(sources()(host.url("/images/a.png"))).__name__ == "HttpSource"
    assert type(sources()(host.url(LINK, host="localhost"))).__name__ == "HttpSource"
