"""The client of the metadata service; with Salad's own SDK beside it in tests/platforms."""

from __future__ import annotations

import pytest
from live import free_port
from platforms.salad_double import ImdsDouble

from adapters.salad_imds import Imds, ImdsFailed


@pytest.fixture
def service():
    double = ImdsDouble()
    yield double
    double.close()


async def test_what_is_told_arrives(service):
    """Cost and wish, each with one request."""
    async with Imds(service.url + "/") as imds:
        await imds.set_deletion_cost(7)
        await imds.reallocate("  no driver ")
    assert service.asked == ["PUT /v1/deletion-cost", "POST /v1/reallocate"]
    assert (service.costs, service.reasons) == ([7], ["no driver"])
    assert service.url in repr(imds)


async def test_a_reason_is_of_the_length_that_is_taken(service):
    """1 to 1000 characters, whatever is given."""
    async with Imds(service.url) as imds:
        await imds.reallocate("x" * 5000)
        await imds.reallocate("  ")
    assert [len(reason) for reason in service.reasons] == [1000, len("no reason was told")]


async def test_failures_are_of_one_kind(service):
    """Refused, gone, out of reach: none of httpx's exceptions comes out."""
    async with Imds(service.url) as imds:
        service.refusing = True
        with pytest.raises(ImdsFailed, match="500"):
            await imds.set_deletion_cost(1)
        service.gone = True
        with pytest.raises(ImdsFailed, match="not known any more"):
            await imds.reallocate("x")
    async with Imds(f"http://127.0.0.1:{free_port()}", timeout_s=1) as nobody:
        with pytest.raises(ImdsFailed, match="deletion-cost"):
            await nobody.set_deletion_cost(1)
