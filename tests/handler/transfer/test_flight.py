"""One download from the first question to the final name: restarts, and what is left behind."""

from __future__ import annotations

import pytest
from sources.host import safetensors

from handler.errors import InputFailed
from handler.inputs.address import AddressPolicy
from handler.transfer.base import AccessDenied
from handler.transfer.flight import Flight, Means
from handler.transfer.http_source import HttpSource
from handler.transfer.part import Part
from handler.transfer.records import Limits, Wanted
from handler.transfer.room import Room
from handler.transfer.slots import Slots

MODEL = safetensors(3 << 20)


@pytest.fixture
def fly(threads, tmp_path):
    """Fetch a URL to `m.safetensors`; give what came and the progress."""
    source = HttpSource(AddressPolicy("127.0.0.1"), threads)
    limits = Limits(backoff_s=0.001, min_piece=1 << 20, spare_disk=0, tries=3)
    means = Means(limits, threads, Room(0), Slots(8, 8))

    async def go(url, **fields):
        wanted = Wanted(url, tmp_path / "m.safetensors", **fields)
        part, told = Part.locked(wanted.target, url), []
        try:
            got = await Flight(wanted, source, part, means, told.append).run()
        finally:
            part.close()
        return got, told

    return go


def names(folder):
    return sorted(path.name for path in folder.iterdir())


async def test_a_flight_ends_under_the_final_name(host, fly, tmp_path):
    """With the last word of its progress; and nothing lies beside."""
    got, told = await fly(host.put("/m", MODEL))
    assert (got.bytes, got.resumed_bytes) == (len(MODEL), 0)
    assert (told[-1].done, told[-1].total) == (len(MODEL), len(MODEL))
    assert names(tmp_path) == ["m.safetensors"]


async def test_a_passing_fault_leaves_what_came_for_the_next_try(host, fly, tmp_path):
    """Which fetches the rest."""
    url = host.put("/m", MODEL, drops=[2 << 20, 0, 0, 0, 0, 0])
    with pytest.raises(InputFailed) as caught:
        await fly(url)
    assert caught.value.retryable
    host.put("/m", MODEL)
    got, _ = await fly(url)
    assert got.resumed_bytes >= 1 << 20
    assert (tmp_path / "m.safetensors").read_bytes() == MODEL


async def test_a_final_fault_leaves_nothing(host, fly, tmp_path):
    """A hash that is wrong is wrong the next time, too."""
    with pytest.raises(InputFailed, match="SHA-256"):
        await fly(host.put("/m", MODEL), sha256="0" * 64)
    assert names(tmp_path) == []


async def test_a_refusal_does_not_cost_others_what_is_there(host, fly, tmp_path):
    """Who asks may lack the right that the one before them had."""
    url = host.put("/m", MODEL, drops=[2 << 20, 0, 0, 0, 0, 0])
    with pytest.raises(InputFailed):
        await fly(url)
    host.put("/m", MODEL, wants={"authorization": "no"})
    with pytest.raises(AccessDenied):
        await fly(url)
    host.put("/m", MODEL)
    assert (await fly(url))[0].resumed_bytes >= 1 << 20
