"""What a manifest needs against what is asked for."""

from __future__ import annotations

import pytest

from handler.manifest.records import Manifest, ModelFile, Requires
from local_server.deploy import needs
from local_server.deploy.faults import DeployFailed

VIDEO = Requires(vram_gb=24, ram_gb=30, typical_s=(60, 300), pattern="queue", image="devel")


def manifest(*sizes):
    models = [
        ModelFile(urls=("https://x/a",), filename=str(n), size=s) for n, s in enumerate(sizes)
    ]
    return Manifest(before_start=tuple(models))


def test_small_cards_are_refused_and_unknown_ones_told():
    """By name."""
    with pytest.raises(DeployFailed, match="requires 24 GB of VRAM: L4-ish has 16 GB"):
        needs.check_vram(VIDEO, {"L4-ish": 16, "big": 48})
    assert needs.check_vram(VIDEO, {"odd": None, "big": 24}) == [
        "how much VRAM odd has is not known; the manifest requires 24 GB"
    ]
    assert needs.check_vram(None, {"tiny": 1}) == []


@pytest.mark.parametrize(
    ("name", "size"), [("RTX 4090 (24 GB)", 24), ("GTX 1660 (6GB)", 6), ("RTX 4090", None)]
)
def test_sizes_stand_in_names(name, size):
    """Salad's classes tell them nowhere else."""
    assert needs.size_in_name(name) == size


def test_what_is_slow_is_not_behind_a_gateway():
    """Also where only the time says so; near the limit is a hint."""
    for requires in (VIDEO, Requires(pattern="queue"), Requires(typical_s=(5, 101))):
        with pytest.raises(DeployFailed, match="100 s"):
            needs.check_gateway(requires)
    assert needs.check_gateway(Requires(typical_s=(30, 90))) != []
    assert needs.check_gateway(Requires(typical_s=(5, 15))) == []
    assert needs.check_gateway(None) == []


def test_a_devel_image_is_hinted_at():
    """Where the tag says that it is none."""
    assert needs.check_image(VIDEO, "a:b-runtime")
    assert needs.check_image(VIDEO, "a:b-devel") == []
    assert needs.check_image(VIDEO, "a:latest") == []


def test_memory_is_checked():
    """As the manifest says."""
    with pytest.raises(DeployFailed):
        needs.check_memory(VIDEO, 29)
    needs.check_memory(VIDEO, 30)


@pytest.mark.parametrize(
    ("sizes", "mbps"), [((), 50), ((6_000_000_000,), 50), ((17_200_000_000,), 60), ((None,), 100)]
)
def test_a_start_has_the_time_of_its_downloads(sizes, mbps):
    """Within Salad's bounds for probes; unknown sizes are guessed."""
    start = needs.startup(manifest(*sizes), mbps)
    size = sum(s or needs.UNKNOWN_BYTES for s in sizes)
    assert start.total_s >= needs.BOOT_S + size * 8 / (mbps * 1e6)
    assert 3 <= start.period_s <= 120
    assert 0 <= start.delay_s <= 1200
    assert ("unknown size" in start.why) is (None in sizes)


def test_more_than_an_hour_is_an_hour_for_faster_lines():
    """Salad's longest probe; which speed that asks for is told."""
    start = needs.startup(manifest(17_200_000_000, 17_800_000_000), 50)
    assert start.total_s == 3600
    assert "nodes with less than 102 MBit/s are given up" in start.why
    assert needs.startup(manifest(35_000_000_000), 50, 1800).total_s == 1800
    with pytest.raises(DeployFailed, match="3600 s at most"):
        needs.startup(manifest(400_000_000_000), 50)


def test_disks_hold_the_models():
    """Those after the start as well."""
    assert needs.disk_gb(None, 20) == 20
    assert needs.disk_gb(manifest(10_000_000_000, None), 20) == 41
