"""How much the page cache may take."""

from __future__ import annotations

import pytest

from handler.engine.free_memory import GIB, LEAST_RESERVE, free_memory, reserve, usable_memory

KIB = 1024


@pytest.fixture
def meminfo(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text(
        f"MemTotal: {64 * GIB // KIB} kB\nMemAvailable: {40 * GIB // KIB} kB\nHugePages_Total: 0\n"
    )
    return path


def cgroup(tmp_path, limit, used, cached, *, version=2):
    base = tmp_path / "cgroup"
    folder = base if version == 2 else base / "memory"
    folder.mkdir(parents=True)
    names = ("memory.max", "memory.current", "")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"anon 5\n{names[2]}active_file {cached}\n{names[2]}inactive_file {cached}\n"
    )
    return base


def test_a_machine_without_limits_has_what_the_kernel_calls_available(tmp_path, meminfo):
    """Page cache counts as free there."""
    assert free_memory(meminfo, tmp_path / "none") == 40 * GIB


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts_where_it_is_less(tmp_path, meminfo, version):
    """What the container has in the page cache can be had again."""
    base = cgroup(tmp_path, 16 * GIB, 10 * GIB, 2 * GIB, version=version)
    assert free_memory(meminfo, base) == 10 * GIB


@pytest.mark.parametrize("limit", ["max", str(1 << 62)])
def test_no_limit_is_no_limit(tmp_path, meminfo, limit):
    """Version 2 writes a word, version 1 a number larger than any machine."""
    assert free_memory(meminfo, cgroup(tmp_path, limit, GIB, 0)) == 40 * GIB


def test_a_limit_that_is_used_up_leaves_nothing(tmp_path, meminfo):
    """Never less than nothing."""
    assert free_memory(meminfo, cgroup(tmp_path, GIB, 2 * GIB, 0)) == 0


def test_where_nothing_is_known_nothing_is_said(tmp_path):
    """No /proc, no control groups."""
    assert free_memory(tmp_path / "none", tmp_path / "none") is None


def test_a_tenth_is_left_to_the_engine(tmp_path, meminfo):
    """At least 1 GiB."""
    assert reserve(meminfo) == 64 * GIB // 10
    assert reserve(tmp_path / "none") == LEAST_RESERVE


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_is_what_may_be_used(tmp_path, version):
    """The machine's whole memory where it has none; the kernel writes a word there."""
    whole = usable_memory(tmp_path / "none")
    assert whole > 100 << 20
    (tmp_path / "limited").mkdir()
    assert usable_memory(cgroup(tmp_path / "limited", 64 << 20, 0, 0, version=version)) == 64 << 20
    (tmp_path / "free").mkdir()
    assert usable_memory(cgroup(tmp_path / "free", "max", 0, 0, version=version)) == whole
