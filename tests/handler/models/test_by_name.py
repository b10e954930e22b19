"""The operator's models, brought to their place."""

from __future__ import annotations

import pytest
from sources.host import hosting, safetensors
from sources.shop import opened

from handler.errors import HandlerError, InputFailed
from handler.models.by_name import OperatorModels
from handler.models.records import Named

CONTENT = safetensors(3000)


@pytest.fixture
async def host():
    async with hosting() as running:
        yield running


def named(*urls, **more):
    return Named(names=("xl",), urls=urls, folder="checkpoints", filename="xl.safetensors", **more)


async def test_the_first_url_that_has_it_counts(host, tmp_path):
    """The others are for when it has not."""
    good = host.put("/xl.safetensors", CONTENT)
    async with opened(tmp_path / "cache") as store:
        models = OperatorModels(store, None)
        path = await models.bring(
            named(host.url("/gone"), good), tmp_path / "m" / "xl.safetensors", "job", None
        )
        assert path == tmp_path / "m" / "xl.safetensors"
        assert path.read_bytes() == CONTENT
        assert [entry.pinned for entry in store.entries()] == [True]


async def test_none_that_has_it_is_the_images_fault(host, tmp_path):
    """The first one's fault is told, and whose it is."""
    async with opened(tmp_path / "cache") as store:
        models = OperatorModels(store, None)
        with pytest.raises(HandlerError, match=r"cannot be had: .*404") as caught:
            await models.bring(named(host.url("/gone")), tmp_path / "xl.safetensors", "job", None)
        assert caught.value.blame == "image"
        with pytest.raises(InputFailed, match="it has no URL"):
            await models.bring(named(), tmp_path / "xl.safetensors", "job", None)
