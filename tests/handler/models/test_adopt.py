"""The cache of a comfyui-api deployment, taken over where it is."""

from __future__ import annotations

import json
import os

import pytest
from sources.host import hosting, safetensors
from sources.shop import opened

from handler.credentials import BearerAuth
from handler.errors import UrlNotAllowed
from handler.models.adopt import adopt
from handler.models.index import Index
from handler.models.names import url_id
from handler.models.records import ModelSource
from handler.transfer.base import AccessDenied

SMALL = safetensors(50_000)
PICKLE = b"PK\3\4" + bytes(range(256)) * 100
CHECKED = "https://civitai.com/api/download/models/128713?type=Model&format=SafeTensor&size=pruned&fp=fp16"


@pytest.fixture
async def host():
    async with hosting() as running:
        yield running


def cached(root, name, body, url=None, *, auth=False):
    """Put a file there as comfyui-api does."""
    (root / name).write_bytes(body)
    if url:
        meta = {"authRequired": auth, "url": url, "cachedAt": "2025-01-01T00:00:00.000Z"}
        (root / f"{name}.meta").write_text(json.dumps(meta, indent=2))
    return root / name


async def test_files_are_found_by_their_urls_and_used_in_place(host, tmp_path):
    """Hash names and callers' names alike; nothing is fetched or moved."""
    urls = [host.url(f"/{name}.safetensors") for name in "abc"]
    paths = [
        cached(tmp_path, f"{url_id(urls[0])}.safetensors", SMALL, urls[0]),
        cached(tmp_path, "mine.safetensors", SMALL, urls[1]),
    ]
    async with opened(tmp_path) as store:
        got = [await store.get(ModelSource(url=url), "x") for url in urls[:2]]
        await store.publish(got[0], tmp_path / "models" / "a.safetensors")

        assert [one.path for one in got] == paths
        assert [one.leaf for one in got] == ["a.safetensors", "mine.safetensors"]
        assert not any(one.fetched for one in got)
    assert (tmp_path / "models" / "a.safetensors").stat().st_ino == paths[0].stat().st_ino
    assert host.requests == []
    async with opened(tmp_path) as store:
        again = await store.get(ModelSource(url=urls[1]), "y")
        assert (again.path, len(store.entries())) == (paths[1], 2)


async def test_a_file_with_a_hash_for_its_name_alone_is_asked_for(host, tmp_path):
    """Nothing tells who had it: the source is asked."""
    url = host.put("/a.safetensors", SMALL)
    cached(tmp_path, f"{url_id(url)}.safetensors", SMALL)
    async with opened(tmp_path) as store:
        got = await store.get(ModelSource(url=url), "x")

    assert not got.fetched
    assert [request.headers["range"] for request in host.requests] == ["bytes=0-0"]


def test_the_check_value_of_the_contract_is_found(tmp_path):
    """The very URL that the contract gives."""
    cached(tmp_path, "Pk6VSKLStckZydwGhX0bM8TqaqHEW9yt.safetensors", SMALL)
    index = Index(tmp_path)
    index.load()

    assert adopt(index) == 1
    assert index.by_url(CHECKED) is not None


async def test_what_is_protected_stays_so(host, tmp_path):
    """`authRequired` of its note."""
    url = host.put("/a.safetensors", SMALL, wants={"authorization": "Bearer t"})
    cached(tmp_path, "a.safetensors", SMALL, url, auth=True)
    async with opened(tmp_path) as store:
        with pytest.raises(AccessDenied, match="in the cache"):
            await store.get(ModelSource(url=url), "x")
        got = await store.get(ModelSource(url=url, auth=BearerAuth(token="t")), "x")

    assert (got.protected, got.fetched) == (True, False)


def test_links_dot_files_and_strangers_are_left_alone(tmp_path):
    """A symbolic link may lead anywhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "cache"
    root.mkdir()
    (outside / "secret").write_bytes(SMALL)
    (root / ("h" * 32 + ".safetensors")).symlink_to(outside / "secret")
    cached(root, ".part.safetensors", SMALL, "http://x/1")
    cached(root, "stranger.safetensors", SMALL)
    cached(root, "odd.safetensors", SMALL, "http://x/2")
    (root / "odd.safetensors.meta").write_text("{")
    (root / "folder").mkdir()
    index = Index(root)
    index.load()

    assert adopt(index) == 0


async def test_a_beginning_under_a_final_name_is_fetched_anew(host, tmp_path):
    """A safetensors file tells by itself, others are held against the source."""
    urls = {host.put("/a.safetensors", SMALL): SMALL, host.put("/b.pt", PICKLE): PICKLE}
    for number, (url, body) in enumerate(urls.items()):
        cached(tmp_path, f"{number}.{url[-2:]}", body[:-10], url)
    async with opened(tmp_path) as store:
        for url, body in urls.items():
            got = await store.get(ModelSource(url=url), "x")
            assert got.fetched
            assert got.path.parent.name == "objects"
            assert got.path.read_bytes() == body
    assert sorted(path.name for path in tmp_path.iterdir()) == ["incoming", "objects"]


async def test_a_source_that_is_gone_does_not_take_its_file_along(host, tmp_path):
    """What cannot be checked is used as it is; for `find` it must tell by itself."""
    url = host.url("/gone.pt")
    path = cached(tmp_path, "gone.pt", PICKLE, url)
    async with opened(tmp_path) as store:
        assert await store.find(ModelSource(url=url, operator=True)) is None
        got = await store.get(ModelSource(url=url), "x")
        found = await store.find(ModelSource(url=url, operator=True))

    assert (got.path, got.fetched) == (path, False)
    assert found is not None


async def test_the_address_policy_holds_for_what_was_fetched_without_one(host, tmp_path):
    """comfyui-api 1.18 fetched from anywhere."""
    url = host.url("/a.safetensors")
    cached(tmp_path, "a.safetensors", SMALL, url)
    async with opened(tmp_path, allow="") as store:
        with pytest.raises(UrlNotAllowed):
            await store.get(ModelSource(url=url), "x")


async def test_adopted_files_count_and_go_with_their_notes(tmp_path):
    """The oldest first."""
    for number in range(3):
        path = cached(tmp_path, f"{number}.safetensors", SMALL, f"http://x/{number}")
        os.utime(path, (number, number))
    async with opened(tmp_path, budget=2 * len(SMALL)) as store:
        left = [entry.leaf for entry in store.entries()]

    assert left == ["2.safetensors", "1.safetensors"]
    assert not list(tmp_path.glob("0*"))
    assert not list(tmp_path.glob(".gone*"))
