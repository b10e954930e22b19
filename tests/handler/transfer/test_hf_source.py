"""Files of the hub, by its own library against a double of it over HTTP."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from sources.host import safetensors
from sources.hub import COMMIT, hub

from handler.credentials import BasicAuth, BearerAuth, HeaderAuth
from handler.errors import InputFailed
from handler.transfer.base import AccessDenied
from handler.transfer.hf_source import HfSource
from handler.transfer.records import Wanted

BODY = safetensors(200_000)
SECRET = "hf_canary4711"


@pytest.fixture
async def site():
    async with hub() as running:
        yield running


@pytest.fixture
def fetch(make, site, threads, tmp_path):
    source = HfSource(
        threads,
        endpoint=site.endpoint,
        cache_dir=tmp_path / "hub",
        more_caches=(tmp_path / "none", tmp_path / "volume"),
    )
    downloader = make(source=source, tries=2)
    (tmp_path / "models").mkdir()

    async def fetch(url, auth=None, on_progress=None):
        target = tmp_path / "models" / "m.safetensors"
        return await downloader.download(Wanted(url, target, auth=auth), on_progress)

    fetch.downloader = downloader
    return fetch


def below(folder):
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def cached(cache, body, commit=COMMIT, repo="owner/name", path="x/m.safetensors"):
    """Lay a file into a cache as the library does: a blob by its hash, and a link to it."""
    home = cache / f"models--{repo.replace('/', '--')}"
    blob = home / "blobs" / hashlib.sha256(BODY).hexdigest()
    named = home / "snapshots" / commit / path
    for folder in (blob.parent, named.parent):
        folder.mkdir(parents=True)
    blob.write_bytes(body)
    named.symlink_to(blob)
    return blob


async def test_what_is_fetched_does_not_grow_the_librarys_cache(fetch, site, tmp_path):
    """It comes beside its target, and nothing but the file is left, there or in the cache."""
    url = site.put("owner/name", "x/m.safetensors", BODY)
    news = []

    got = await fetch(url, on_progress=news.append)

    target = tmp_path / "models" / "m.safetensors"
    assert got.sha256 == hashlib.sha256(BODY).hexdigest()
    assert (got.filename_hint, got.resumed_bytes) == ("m.safetensors", 0)
    assert target.read_bytes() == BODY
    assert target.stat().st_nlink == 1
    assert below(tmp_path) == [target]
    assert [path.name for path in target.parent.iterdir()] == ["m.safetensors"]
    assert news[-1].done == len(BODY)


@pytest.mark.parametrize("which", ["hub", "volume"])
@pytest.mark.parametrize("commit", [COMMIT, "f00d" * 10])
async def test_what_a_cache_has_is_linked_from_there(fetch, site, tmp_path, which, commit):
    """The library's own or another; for another commit of the same bytes, too."""
    url = site.put("owner/name", "x/m.safetensors", BODY)
    blob = cached(tmp_path / which, BODY, commit)

    got = await fetch(url)

    assert (tmp_path / "models" / "m.safetensors").stat().st_ino == blob.stat().st_ino
    assert {method for method, _, _ in site.asked} == {"HEAD"}
    assert got.resumed_bytes == len(BODY)
    (tmp_path / "models" / "m.safetensors").unlink()
    assert blob.read_bytes() == BODY


@pytest.mark.parametrize("body", [BODY[:-1], BODY[:-1] + b"?"], ids=["short", "damaged"])
async def test_what_a_cache_has_in_part_or_damaged_is_fetched(fetch, site, tmp_path, body):
    """And left as it is there: it is not ours."""
    url = site.put("owner/name", "x/m.safetensors", BODY)
    blob = cached(tmp_path / "hub", body)

    await fetch(url)

    assert (tmp_path / "models" / "m.safetensors").read_bytes() == BODY
    assert blob.read_bytes() == body


async def test_a_header_with_a_bearer_token_is_one(fetch, site):
    """As other sources take it; any other header is refused."""
    url = site.put("owner/name", "m.safetensors", BODY)
    site.secrets["owner/name"] = SECRET

    for name, value in (
        ("Authorization", f"Bearer {SECRET}"),
        ("authorization", f"bearer {SECRET}"),
    ):
        await fetch(url, HeaderAuth(header_name=name, header_value=value))
    for name, value in (("Authorization", "Basic eA=="), ("X-Key", f"Bearer {SECRET}")):
        with pytest.raises(InputFailed, match="bearer, not header"):
            await fetch(url, HeaderAuth(header_name=name, header_value=value))


async def test_a_revision_with_a_slash_is_found_by_asking(fetch, site):
    """The URL alone does not tell where it ends."""
    site.put("owner/name", "m.safetensors", b"other")
    site.put("owner/name", "sub/m.safetensors", BODY, revision="feature/one")
    url = f"{site.endpoint}/owner/name/resolve/feature/one/sub/m.safetensors"

    assert (await fetch(url)).bytes == len(BODY)


async def test_datasets_spaces_and_old_names(fetch, site):
    """They lie elsewhere on the hub."""
    for repo in ("datasets/owner/name", "spaces/owner/name", "gpt2"):
        assert (await fetch(site.put(repo, "a b.safetensors", BODY))).bytes == len(BODY)


async def test_a_private_repository_wants_a_token(fetch, site, threads, make, tmp_path):
    """The caller's, else the operator's; it is checked on a hit, too, and is in no text."""
    url = site.put("owner/name", "m.safetensors", BODY)
    site.secrets["owner/name"] = SECRET
    good, bad = BearerAuth(token=SECRET), BearerAuth(token=SECRET + "x")

    with pytest.raises(AccessDenied, match="is private") as caught:
        await fetch(url, bad)
    assert "HF_TOKEN" in caught.value.hint
    assert SECRET not in str(caught.value.envelope())
    assert (await fetch(url, good)).bytes == len(BODY)
    await fetch.downloader.stat(url, good)
    with pytest.raises(AccessDenied):
        await fetch.downloader.stat(url, bad)
    with pytest.raises(InputFailed, match="bearer, not basic"):
        await fetch(url, BasicAuth(username="a", password="b"))
    own = HfSource(threads, endpoint=site.endpoint, cache_dir=tmp_path / "h2", token=SECRET)
    await make(source=own).download(Wanted(url, tmp_path / "own.safetensors"))


async def test_a_gated_repository_names_the_page_of_its_licence(fetch, site):
    """Only there it can be accepted."""
    url = site.put("owner/flux", "m.safetensors", BODY)
    site.gated.add("owner/flux")

    with pytest.raises(AccessDenied, match="gated") as caught:
        await fetch(url)
    assert "https://huggingface.co/owner/flux" in caught.value.hint


@pytest.mark.parametrize(
    "path", ["owner/name/resolve/main/none.bin", "owner/name/resolve/v9/m.bin"]
)
async def test_what_is_not_there_is_told(fetch, site, path):
    """A file, a revision."""
    site.put("owner/name", "m.bin", BODY)

    with pytest.raises(InputFailed, match=r"there is no (none|m)\.bin of owner/name"):
        await fetch(f"{site.endpoint}/{path}")


async def test_a_page_of_the_hub_is_no_file(fetch, site):
    """It is told which link to take."""
    with pytest.raises(InputFailed, match="names no file") as caught:
        await fetch(f"{site.endpoint}/owner/name/tree/main")
    assert "resolve" in caught.value.hint


async def test_a_hub_that_is_out_of_order_is_tried_again(fetch, site, make, threads, tmp_path):
    """And told as such when it stays so."""
    url = site.put("owner/name", "m.safetensors", BODY)
    site.broken = 1
    assert (await fetch(url)).bytes == len(BODY)

    gone = HfSource(threads, endpoint="http://127.0.0.1:1", cache_dir=tmp_path / "h2")
    with pytest.raises(InputFailed, match="cannot be reached") as caught:
        await make(source=gone, tries=2).download(Wanted(url, tmp_path / "x"))
    assert caught.value.retryable


async def test_a_download_that_nobody_wants_any_more_is_left(fetch, site, tmp_path):
    """At the library's next step; the next one fetches it whole."""
    body = safetensors(30 << 20)
    url = site.put("owner/name", "m.safetensors", body)
    site.gate = asyncio.Event()
    news = []
    target = tmp_path / "models" / "m.safetensors"
    task = asyncio.create_task(fetch.downloader.download(Wanted(url, target), news.append))
    while not (news and news[-1].done) and not task.done():
        await asyncio.sleep(0.01)
    task.cancel()
    while repr(fetch.downloader) != "<Downloader 0 under way>":
        await asyncio.sleep(0.01)
    site.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Its thread is left to end by itself, and takes what it has written with it.
    async with asyncio.timeout(30):
        while list(target.parent.iterdir()):
            await asyncio.sleep(0.01)

    site.gate = None
    await fetch(url)
    assert target.read_bytes() == body
