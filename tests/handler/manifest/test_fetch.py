"""Models of a manifest, fetched by the real downloader from a host on the loopback."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from sources.host import hosting, safetensors

from handler.inputs.address import AddressPolicy
from handler.manifest.faults import InstallFailed
from handler.manifest.fetch import ModelFetcher
from handler.manifest.hash_note import remembered
from handler.manifest.records import ModelFile
from handler.models.records import ModelSource
from handler.models.store import InUse, Store
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
async def fetch(tmp_path_factory):
    """Fetches a model: `fetch(urls, path, sha256=...)`; `fetch.told` has the progress.

    `fetch.link` looks into `fetch.store` first.
    """
    threads = Threads()
    source = HttpSource(AddressPolicy("127.0.0.1"), threads)
    limits = Limits(spare_disk=0, backoff_s=0.001)
    downloader = Downloader(lambda _: source, threads=threads, limits=limits)
    told = []
    fetcher = ModelFetcher(downloader, lambda model: lambda news: told.append((model, news)))

    store = Store(tmp_path_factory.mktemp("store"))
    store.attach(downloader, downloader)
    store.open()
    shelved = ModelFetcher(downloader, shelf=store)

    async def link(urls, path, **fields):
        return await shelved(ModelFile(urls=urls, folder="vae", filename=path.name, **fields), path)

    async def bring(urls, path, **fields):
        return await fetcher(ModelFile(urls=urls, folder="vae", filename=path.name, **fields), path)

    bring.told, bring.link, bring.store = told, link, store
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


async def test_a_model_that_is_there_tells_its_size(host, fetch, tmp_path):
    """Whoever looks at the progress sees a whole file."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(BODY)
    await fetch((host.url("/never"),), path)
    assert fetch.told[-1][1].done == fetch.told[-1][1].total == len(BODY)


async def test_a_hash_that_was_checked_is_remembered(host, fetch, tmp_path):
    """When it was fetched, and when it was there."""
    for path in (tmp_path / "a.safetensors", tmp_path / "b.safetensors"):
        if path.name.startswith("b"):
            path.write_bytes(BODY)
        await fetch((host.put("/m", BODY),), path, sha256=SHA256)
        assert remembered(path) == SHA256


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256}])
async def test_a_model_of_the_store_is_linked(host, fetch, tmp_path, known):
    """Nothing is fetched, and the store may not remove what the operator names."""
    url, path = host.put("/m.safetensors", BODY), tmp_path / "vae" / "m.safetensors"
    stored = await fetch.store.get(ModelSource(url=url, operator=True, **known), "somebody")
    fetch.store.release("somebody")
    asked = len(host.requests)

    assert await fetch.link((url,), path, **known) == "linked from the cache"
    assert path.samefile(stored.path)
    assert len(host.requests) == asked
    with pytest.raises(InUse):
        await fetch.store.remove(stored.key)
    assert await fetch.link((url,), path, **known) == "there"


async def test_another_file_of_the_store_is_not_taken(host, fetch, tmp_path):
    """The hash decides, and then it is fetched to its place."""
    url, path = host.put("/m.safetensors", BODY), tmp_path / "vae" / "m.safetensors"
    await fetch.store.get(ModelSource(url=url, operator=True), "somebody")
    other = safetensors(1 << 18)
    host.put("/m.safetensors", other)

    told = await fetch.link((url,), path, sha256=hashlib.sha256(other).hexdigest())
    assert told.startswith("fetched")
    assert path.read_bytes() == other


async def test_a_wrong_file_gives_way_to_that_of_the_store(host, fetch, tmp_path):
    """A link does not go over a file by itself."""
    url, path = host.put("/m.safetensors", BODY), tmp_path / "m.safetensors"
    await fetch.store.get(ModelSource(url=url, operator=True), "somebody")
    path.write_bytes(b"wrong")
    assert await fetch.link((url,), path, size=len(BODY)) == "linked from the cache"
    assert path.read_bytes() == BODY
