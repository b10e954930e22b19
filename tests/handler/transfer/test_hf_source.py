"""Files of the hub, by its own library against a double of it over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from sources.host import safetensors
from sources.hub import COMMIT, hub

from handler.credentials import BasicAuth, BearerAuth
from handler.errors import InputFailed
from handler.transfer.base import AccessDenied
from handler.transfer.hf_source import HfSource, HubFile, parsed
from handler.transfer.records import Wanted

BODY = safetensors(200_000)
SECRET = "hf_canary4711"


@pytest.fixture
async def site():
    async with hub() as running:
        yield running


@pytest.fixture
def fetch(make, site, threads, tmp_path):
    source = HfSource(threads, endpoint=site.endpoint, cache_dir=tmp_path / "hub")
    downloader = make(source=source, tries=2)
    (tmp_path / "models").mkdir()

    async def fetch(url, auth=None, **wanted):
        target = tmp_path / "models" / "m.safetensors"
        return await downloader.download(Wanted(url, target, auth=auth, **wanted))

    fetch.downloader = downloader
    return fetch


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("a/b/resolve/main/m.st?download=true", HubFile("a/b", "model", (("main", "m.st"),))),
        ("a/b/blob/main/x/m.st", HubFile("a/b", "model", (("main", "x/m.st"), ("main/x", "m.st")))),
        ("gpt2/resolve/main/m.st", HubFile("gpt2", "model", (("main", "m.st"),))),
        ("datasets/a/b/raw/v1/m%20n", HubFile("a/b", "dataset", (("v1", "m n"),))),
        ("datasets/squad/resolve/v1/m", HubFile("squad", "dataset", (("v1", "m"),))),
        ("spaces/a/b/resolve/v1/m", HubFile("a/b", "space", (("v1", "m"),))),
        ("a/b/resolve/refs%2Fpr%2F3/x/m", HubFile("a/b", "model", (("refs/pr/3", "x/m"),))),
        ("a/b/resolve/refs/pr/3/x/m", HubFile("a/b", "model", (("refs/pr/3", "x/m"),))),
        ("a/resolve/resolve/main/m", HubFile("a/resolve", "model", (("main", "m"),))),
        ("a/b/tree/main/m", None),
        ("a/b/resolve/main", None),
        ("a/b", None),
        ("", None),
    ],
)
def test_urls_of_the_hub(path, file):
    """Every form that its pages give."""
    assert parsed(f"https://huggingface.co/{path}") == file


async def test_a_model_is_fetched_by_the_library_and_its_cache_stays_whole(fetch, site, tmp_path):
    """The file is a link to the cache's, which serves the next one without a byte."""
    url = site.put("owner/name", "x/m.safetensors", BODY)

    got = await fetch(url)
    target = tmp_path / "models" / "m.safetensors"
    (blob,) = (tmp_path / "hub" / "models--owner--name" / "blobs").iterdir()
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / COMMIT / "x/m.safetensors"

    assert got.sha256 == hashlib.sha256(BODY).hexdigest()
    assert got.filename_hint == "m.safetensors"
    assert target.stat().st_ino == blob.stat().st_ino
    assert snapshot.read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir()] == ["m.safetensors"]
    asked = len(site.asked)
    target.unlink()
    await fetch(url)
    assert {method for method, _, _ in site.asked[asked:]} == {"HEAD"}
    assert Path(blob).read_bytes() == BODY


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
    await fetch.downloader.check_access(url, good)
    with pytest.raises(AccessDenied):
        await fetch.downloader.check_access(url, bad)
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
    assert list(target.parent.iterdir()) == []

    site.gate = None
    await fetch(url)
    assert target.read_bytes() == body
