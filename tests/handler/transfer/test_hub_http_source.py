"""Links of the hub over plain HTTP, where huggingface_hub is not installed."""

from __future__ import annotations

import pytest
from sources.hub import hub

from handler.credentials import BearerAuth
from handler.inputs.address import AddressPolicy
from handler.transfer.base import AccessDenied
from handler.transfer.download import Downloader
from handler.transfer.records import Wanted
from handler.transfer.sources import Sources, SourceSettings

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
        await downloader.check_access(url, auth)
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


def test_the_hubs_other_names_lead_to_it(threads):
    """The token is sent to none of them."""
    source = Sources(SourceSettings(hf_over_http=True), AddressPolicy(), threads)(
        "https://hf.co/me/pics/blob/main/a.png"
    )
    direct = source._direct("https://hf.co/me/pics/blob/main/a.png")
    assert direct == "https://huggingface.co/me/pics/resolve/main/a.png"
