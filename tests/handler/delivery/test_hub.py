"""Commits to a double of the hub, by its own library."""

from __future__ import annotations

import pytest
from huggingface_hub import constants
from sources.hub import COMMIT, hub

from handler.delivery.base import PutFailed
from handler.delivery.hub import HubUploader
from handler.errors import InvalidPayload
from handler.targets import Targets

# The library calls httpx in a way that httpx has given up.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")
SECRET = "hf_canary4711secret"


@pytest.fixture
async def site(monkeypatch, tmp_path):
    """A hub without Xet, whose protocol has no double; the library as if freshly installed."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    async with hub() as running:
        running.repos |= {"me/model", "datasets/me/data"}
        yield running


@pytest.fixture
def uploader(threads, site):
    def make(token=SECRET, repo="me/data", repo_type="dataset", **fields):
        fields |= {"repo": repo, "repo_type": repo_type}
        target = Targets.model_validate({"hf_upload": fields}).hf_upload
        return HubUploader(target, threads, token=token, endpoint=site.endpoint)

    return make


async def test_all_files_of_a_job_make_one_commit(uploader, site, item, progress):
    """Large ones go before it, and only once."""
    site.secrets["datasets/me/data"] = SECRET
    put = uploader(directory="/o ut/")
    await put.check()
    files = [
        item("a b猫.png", key="o ut/a b猫.png"),
        item("b.png", 3_000_000, key="o ut/b.png"),
        item("note.txt", key="o ut/note.txt"),
    ]

    await put.stage(files[0], progress)
    assert len(site.stored) == 1
    assert site.commits == []
    stored = await put.commit(files)

    assert site.commits == [[file.key for file in files]]
    for file in files:
        assert site.files["datasets/me/data", "main", file.key] == file.path.read_bytes()
    page = f"{site.endpoint}/datasets/me/data/resolve/main/o%20ut"
    assert [one.url for one in stored] == [
        f"{page}/a%20b%E7%8C%AB.png",
        f"{page}/b.png",
        f"{page}/note.txt",
    ]
    assert {one.etag for one in stored} == {COMMIT}
    uploads = [path for method, path, _ in site.asked if method == "PUT"]
    assert len(uploads) == len(set(uploads)) == 2


async def test_a_model_is_a_repository_without_prefix(uploader, site, item, progress):
    """A slash in a revision is escaped; at the top there is no extra one."""
    put = uploader(repo="me/model", repo_type="model", revision="refs/pr/1")

    stored = await put.put(item("cat.png"), progress)

    assert stored.url == f"{site.endpoint}/me/model/resolve/refs%2Fpr%2F1/cat.png"
    assert progress.told == [5000]
    default = Targets.model_validate({"hf_upload": {"repo": "a/b"}}).hf_upload
    sender = HubUploader(default, put._threads, token="t")
    assert sender.location("c.png") == "https://huggingface.co/a/b/resolve/main/c.png"


async def test_the_requests_token_comes_first(uploader, site, item, progress):
    """The operator's is for those without."""
    site.secrets["datasets/me/data"] = "hf_callers_own"
    auth = {"type": "bearer", "token": "hf_callers_own"}
    put = uploader(auth=auth)

    await put.put(item(), progress)

    assert put.own_credentials
    assert not uploader().own_credentials
    assert {token for _, _, token in site.asked if token} == {"Bearer hf_callers_own"}


async def test_refusals_are_told(uploader, site, item, progress):
    """No such repository, no right to write."""
    with pytest.raises(PutFailed, match="no such repository") as caught:
        await uploader(repo="me/none").put(item(), progress)
    assert (caught.value.passing, caught.value.whose) == (False, "place")
    site.secrets["datasets/me/data"] = "another"
    with pytest.raises(PutFailed, match="403") as denied:
        await uploader().put(item(), progress)
    assert not denied.value.passing
    assert "write" in (denied.value.hint or "")


async def test_a_file_that_is_gone_is_told(uploader, item, progress):
    """The hub is not to blame."""
    file = item()
    file.path.unlink()
    with pytest.raises(PutFailed) as caught:
        await uploader().put(file, progress)
    assert (caught.value.passing, caught.value.whose) == (False, "worker")


async def test_a_hub_that_is_away_may_be_back(threads, item):
    """Told without its address. No connection is tried here: the library would for 20 s."""
    target = Targets.model_validate({"hf_upload": {"repo": "a/b"}}).hf_upload
    put = HubUploader(target, threads, token="t", endpoint="ftp://10.0.0.1")
    with pytest.raises(PutFailed, match="cannot be reached") as caught:
        await put.commit([item("note.txt")])
    assert caught.value.passing
    assert "10.0.0.1" not in str(caught.value)


async def test_without_a_token_it_is_a_400(uploader):
    """It says what to set."""
    with pytest.raises(InvalidPayload, match="no token") as caught:
        await uploader(token=None).check()
    assert "HF_TOKEN" in (caught.value.hint or "")
