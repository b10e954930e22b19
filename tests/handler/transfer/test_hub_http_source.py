"""Links of the hub over plain HTTP, where huggingface_hub is not installed."""

from __future__ import annotations

import gzip
import hashlib

import pytest
from sources.hub import hub

from handler.credentials import BearerAuth
from handler.inputs.address import AddressPolicy
from handler.transfer.base import AccessDenied
from handler.transfer.download import Downloader
from handler.transfer.records import Wanted
from handler.transfer.sources import Sources, SourceSettings
from handler.transfer.verify import Corrupt

BODY = b"a picture" * 100
TOKEN = "hf_canary4711"


@pytest.fixture
async def files():
    async with hub() as running:
        running.put("me/pics", "in here/a.png", BODY)
        running.put("datasets/me/pics", "b.png", BODY)
        running.put("me/own", "c.png", BODY)
        running.secrets["me/own"] = TOKEN
        yield running


@pytest.fixture
def fetch(files, threads, tmp_path):
    async def fetch(path, auth=None, token=None):
        settings = SourceSettings(hf_over_http=True, hf_endpoint=files.endpoint, hf_token=token)
        downloader = Downloader(Sources(settings, AddressPolicy(), threads), threads=threads)
        url = f"{files.endpoint}/{path}"
        got = await downloader.download(Wanted(url, tmp_path / "f", auth=auth, kind="file"))
        await downloader.stat(url, auth)
        return got

    return fetch


@pytest.mark.parametrize(
    "path",
    [
        "me/pics/resolve/main/in%20here/a.png",
        "me/pics/resolve/main/in%20here/a.png?download=true",
        "me/pics/blob/main/in%20here/a.png",
        "datasets/me/pics/raw/main/b.png",
    ],
)
async def test_a_link_is_fetched_whatever_page_it_leads_to(fetch, path):
    """The page of a file stands for the file."""
    got = await fetch(path)
    assert got.path.read_bytes() == BODY


async def test_the_token_opens_private_files(fetch, files):
    """The operator's, or the one that comes with the request."""
    path = "me/own/resolve/main/c.png"
    await fetch(path, token=TOKEN)
    await fetch(path, BearerAuth(token=TOKEN), token="another")
    with pytest.raises(AccessDenied) as caught:
        await fetch(path)
    assert "HF_TOKEN" in caught.value.hint
    assert {token for _, _, token in files.asked} == {f"Bearer {TOKEN}", None}


async def test_what_came_is_held_against_the_hubs_hash(fetch, files):
    """Which it tells when it leads on to where the bytes are."""
    got = await fetch("me/pics/resolve/main/in%20here/a.png")
    assert got.sha256 == hashlib.sha256(BODY).hexdigest()

    files.swaps[hashlib.sha256(BODY).hexdigest()] = BODY[:-1] + b"?"
    with pytest.raises(Corrupt, match="SHA-256"):
        await fetch("me/pics/resolve/main/in%20here/a.png")


async def test_only_the_hub_tells_of_its_files(files, host, threads):
    """What another host on the way tells is not taken; nor what is no hash."""
    telling = {"X-Linked-Etag": f'"{"a" * 64}"', "X-Linked-Size": "3", "Location": "/end"}
    host.put("/end", BODY)
    host.put("/me/pics/resolve/main/a", b"", statuses=[(302, telling)] * 3)
    sources = Sources(
        SourceSettings(hf_over_http=True, hf_endpoint=host.url("")), AddressPolicy(), threads
    )
    source = sources(host.url("/me/pics/resolve/main/a"))
    remote = await source.stat(host.url("/me/pics/resolve/main/a"), None)
    await source.release(remote)
    assert (remote.sha256, remote.size) == ("a" * 64, len(BODY))

    host.redirects["/me/pics/resolve/main/b"] = host.url("/b", host="localhost")
    host.put("/b", b"", statuses=[(302, telling)])
    remote = await source.stat(host.url("/me/pics/resolve/main/b"), None)
    await source.release(remote)
    assert remote.sha256 is None

    telling["X-Linked-Etag"] = '"a1b2"'
    remote = await source.stat(host.url("/me/pics/resolve/main/a"), None)
    await source.release(remote)
    assert remote.sha256 is None


async def test_a_size_that_only_the_hub_tells_is_taken(host, threads):
    """Where the bytes come without one."""
    telling = {"X-Linked-Size": str(len(BODY)), "Location": "/end"}
    host.put("/end", gzip.compress(BODY), headers={"Content-Encoding": "gzip"}, ranges=False)
    url = host.put("/me/pics/resolve/main/a", b"", statuses=[(302, telling)])
    settings = SourceSettings(hf_over_http=True, hf_endpoint=host.url(""))
    source = Sources(settings, AddressPolicy(), threads)(url)

    remote = await source.stat(url, None)
    await source.release(remote)

    assert remote.size == len(BODY)


def test_the_hubs_other_names_lead_to_it(threads):
    """The token is sent to none of them."""
    source = Sources(SourceSettings(hf_over_http=True), AddressPolicy(), threads)(
        "https://hf.co/me/pics/blob/main/a.png"
    )
    direct = source._direct("https://hf.co/me/pics/blob/main/a.png")
    assert direct == "https://huggingface.co/me/pics/resolve/main/a.png"
