"""`requires` against a machine."""

from __future__ import annotations

import pytest

from handler.manifest.needs import lacks, shortfalls
from handler.manifest.records import Requires

NEEDS = Requires(vram_gb=24, ram_gb=32, gpu="RTX 4090")


@pytest.mark.parametrize(
    ("vram", "ram"), [(24564, 32 * 1024), (22731, 31_000), (None, None), (81559, 10**6)]
)
def test_a_machine_that_is_sold_as_such_is_enough(vram, ram):
    """Cards and machines tell of a little less; what is not known is no fault."""
    assert shortfalls(NEEDS, vram_mb=vram, ram_mb=ram) == []


def test_what_is_too_little_is_told():
    """With what there is, and what does well."""
    vram, ram = shortfalls(NEEDS, vram_mb=15360, ram_mb=16 * 1024)
    assert vram.startswith("24 GB of VRAM are wanted (RTX 4090 does well)")
    assert vram.endswith("a GPU with 15.0 GB")
    assert ram == "32 GB of RAM are wanted, and 16.0 GB may be used"
    (none,) = shortfalls(Requires(vram_gb=8), vram_mb=0, ram_mb=1)
    assert none.endswith("no usable GPU")


def test_a_manifest_that_asks_for_nothing_is_content():
    """No `requires`, or an empty one."""
    assert shortfalls(None, vram_mb=0, ram_mb=0) == []
    assert shortfalls(Requires(), vram_mb=0, ram_mb=0) == []


def test_round_numbers_are_meant_roughly():
    """What is sold as 24 GB shows a little less; what is not known is no reason to warn."""
    assert not lacks(24, 23_000)
    assert lacks(24, 20_000)
    assert not lacks(None, 0)
    assert not lacks(24, None)
