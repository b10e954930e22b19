"""Models of a manifest, fetched by the real downloader from a host on the loopback."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from sources.host import hosting, safetensors

from handler.inputs.address import AddressPolicy
from handler.manifest.faults import InstallFailed
from handler.manifest.fetch import ModelFetcher
from handler.manifest.records import ModelFile
from handler.transfer.download import Downloader
from handler.transfer.http_source import HttpSource
from handler.transfer.records import Limits
from handler.transfer.threads import Threads

BODY = safetensors(1 << 20)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
async def host():
    async with hosting() as running:
        yield running


@pytest.fixture
async def fetch():
    """Fetches a model: `fetch(urls, path, sha256=...)`; `fetch.told` has the progress."""
    threads = Threads()
    source = HttpSource(AddressPolicy("127.0.0.1"), threads)
    limits = Limits(spare_disk=0, backoff_s=0.001)
    downloader = Downloader(lambda _: source, threads=threads, limits=limits)
    told = []
    fetcher = ModelFetcher(downloader, lambda model: lambda news: told.append((model, news)))

    async def bring(urls, path, **fields):
        return await fetcher(ModelFile(urls=urls, folder="vae", filename=path.name, **fields), path)

    bring.told = told
    yield bring
    await downloader.close()


async def test_a_model_is_fetched_and_then_it_is_there(host, fetch, tmp_path):
    """Its listener hears of the bytes; the second time the host is not asked."""
    url, path = host.put("/m", BODY), tmp_path / "vae" / "m.safetensors"

    assert (await fetch((url,), path)).startswith("fetched 1.0 MB in ")
    assert path.read_bytes() == BODY
    assert fetch.told[-1][1].done == len(BODY)
    asked = len(host.requests)
    assert await fetch((url,), path, sha256=SHA256, size=len(BODY)) == "there"
    assert len(host.requests) == asked


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {"size": len(BODY)}])
async def test_another_file_of_that_name_is_replaced(host, fetch, tmp_path, known):
    """By what the manifest tells of it."""
    url, path = host.put("/m", BODY), tmp_path / "m.safetensors"
    path.write_bytes(b"another")

    await fetch((url,), path, **known)

    assert path.read_bytes() == BODY


async def test_the_next_url_is_tried(host, fetch, tmp_path):
    """The first one that has the file is enough."""
    path = tmp_path / "m.safetensors"

    await fetch((host.url("/gone"), host.put("/m", BODY)), path)

    assert path.read_bytes() == BODY


async def test_a_fault_names_the_model_and_who_is_to_blame(host, fetch, tmp_path):
    """A file that is not there is the manifest's fault, a host that is down is not."""
    with pytest.raises(InstallFailed, match=r"model m.bin: .*/gone: 404") as caught:
        await fetch((host.url("/gone"),), tmp_path / "m.bin")
    assert (caught.value.blame, caught.value.retryable) == ("image", False)

    url = host.put("/m", BODY, statuses=[(503, {})] * 9)
    with pytest.raises(InstallFailed, match=r"model m.bin: .*/m: 503") as caught:
        await fetch((url,), tmp_path / "m.bin")
    assert (caught.value.blame, caught.value.retryable) == ("platform", True)


async def test_a_wrong_hash_leaves_nothing(host, fetch, tmp_path):
    """No file, no part."""
    with pytest.raises(InstallFailed, match=r"model m.bin: .*SHA-256"):
        await fetch((host.put("/m", BODY),), tmp_path / "m.bin", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


async def test_one_file_named_twice_is_fetched_once(host, fetch, tmp_path):
    """Both entries of the manifest get it."""
    url, path = host.put("/m", BODY), tmp_path / "m.safetensors"

    await asyncio.gather(fetch((url,), path), fetch((url,), path))

    assert host.served == len(BODY)
