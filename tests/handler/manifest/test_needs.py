"""`requires` against a machine."""

from __future__ import annotations

import pytest

from handler.manifest.needs import ram_mb, shortfalls
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


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_containers_limit_counts(tmp_path, name):
    """Where it is less than the machine's; `max` is none."""
    whole = ram_mb(tmp_path)
    assert whole > 100
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{64 << 20}\n")
    assert ram_mb(tmp_path) == 64
    path.write_text("max\n")
    assert ram_mb(tmp_path) == whole
