"""A host of files and a downloader, as the tests of the transfers use them."""

from __future__ import annotations

import pytest
from sources.host import hosting

from handler.inputs.address import AddressPolicy
from handler.transfer.download import Downloader
from handler.transfer.http_source import HttpSource
from handler.transfer.records import Limits
from handler.transfer.threads import Threads


@pytest.fixture
async def host():
    async with hosting() as running:
        yield running


@pytest.fixture
def threads():
    pool = Threads()
    yield pool
    pool.close()


@pytest.fixture
async def make(threads):
    """Make downloaders over HTTP that may reach the loopback, with limits of the test's own."""
    made = []

    def build(
        *,
        source=None,
        make_room=None,
        on_done=None,
        count=None,
        allow="127.0.0.1",
        defaults=(),
        **limits,
    ):
        small = {"backoff_s": 0.001, "min_piece": 1 << 20, "max_piece": 4 << 20, "spare_disk": 0}
        idle = limits.get("idle_s", 30.0)
        source = source or HttpSource(
            AddressPolicy(allow), threads, defaults=defaults, idle_timeout_s=idle
        )
        made.append(
            Downloader(
                lambda _: source,
                threads=threads,
                limits=Limits(**{**small, **limits}),
                make_room=make_room,
                on_done=on_done,
                count=count,
            )
        )
        return made[-1]

    yield build
    for downloader in made:
        await downloader.close()
