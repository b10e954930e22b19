"""Sizes and counts as people write them."""

from __future__ import annotations

import pytest

from local_server.cli.sizes import counted, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (4_200, "4.20 kB"),
        (1_500_000, "1.50 MB"),
        (23_400_000, "23.4 MB"),
        (200_000_000, "200 MB"),
        (2_130_000_000, "2.13 GB"),
        (1_234_000_000_000, "1,234 GB"),
    ],
)
def test_a_size_has_the_unit_that_fits(count, text):
    """Three digits tell enough."""
    assert size_text(count) == text


def test_one_thing_is_no_plural():
    """And many are counted in thousands."""
    assert [counted(count, "file") for count in (0, 1, 1200)] == [
        "0 files",
        "1 file",
        "1,200 files",
    ]
