"""What was downloaded becomes an object; with real downloads it is in test_store.py."""

from __future__ import annotations

import pytest
from sources.host import safetensors

from handler.credentials import BearerAuth
from handler.models.arrivals import admit
from handler.models.index import Index
from handler.models.records import ModelSource
from handler.transfer.records import Downloaded
from handler.transfer.verify import Corrupt

BODY = safetensors(1000)


@pytest.fixture
def index(tmp_path):
    made = Index(tmp_path)
    made.load()
    return made


def got(tmp_path, body=BODY, sha256=None, hint=""):
    path = tmp_path / "model"
    path.write_bytes(body)
    return Downloaded(path, len(body), sha256, 0.1, 0, hint)


async def test_a_file_gets_its_name_by_its_content_or_its_url(index, tmp_path):
    """And is found by both."""
    source = ModelSource(url="https://x/api/1")
    one = await admit(index, source, got(tmp_path, hint="m.safetensors"))
    two = await admit(index, ModelSource(url="https://x/2"), got(tmp_path, sha256="ab" * 32))

    assert one.key.startswith("url-")
    assert two.key == "sha256-" + "ab" * 32
    assert (one.leaf, two.leaf) == ("m.safetensors", "2.safetensors")
    assert index.by_url(source.url) is one
    assert index.by_sha256("ab" * 32) is two
    assert not (tmp_path / "model").exists()


async def test_content_that_is_here_gets_one_more_url(index, tmp_path):
    """Had without a right once, it is everybody's."""
    guarded = ModelSource(url="https://x/1", auth=BearerAuth(token="t"))
    first = await admit(index, guarded, got(tmp_path, sha256="ab" * 32))
    assert first.protected
    second = await admit(index, ModelSource(url="https://y/1"), got(tmp_path, sha256="ab" * 32))

    assert second is first
    assert not first.protected
    assert len(first.origins) == 2
    assert len(list(index.folder.iterdir())) == 2


async def test_bytes_that_are_not_whole_do_not_come_in(index, tmp_path):
    """Where only the bytes told that they are safetensors."""
    with pytest.raises(Corrupt):
        await admit(index, ModelSource(url="https://x/1"), got(tmp_path, BODY[:-1]))

    assert not (tmp_path / "model").exists()
    assert len(index) == 0
