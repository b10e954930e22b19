"""The names of what is kept."""

from __future__ import annotations

import re

import pytest

from handler.state import layout


def test_callers_texts_are_in_no_name(record):
    """Whatever they hold, a name is one of ours."""
    odd = record("../../etc/passwd\x00\ud800", key="../" * 600)
    names = [
        *(layout.job_key(odd.id), layout.key_key(odd.key)),
        *(layout.active_key(odd), layout.recent_key(odd)),
    ]

    assert all(re.fullmatch(r"[a-z0-9/-]{10,100}", name) for name in names)


def test_marks_lead_to_their_record(record):
    """By the end of their names."""
    one = record("a")

    assert layout.job_of(layout.recent_key(one)) == layout.job_key("a")
    assert layout.job_of(layout.active_key(one)) == layout.job_key("a")


def test_later_jobs_sort_first(record):
    """Whole keys, with their folders."""
    times = [0.0, 1.0, 9999.9, 10_000.0, 1.8e9, 1.8e9 + 0.001, 9.9e9]
    keys = [layout.recent_key(record(created=at)) for at in times]

    assert keys == sorted(keys, reverse=True)


def test_a_cursor_names_a_place_in_the_list(record):
    """Anything else is refused: it comes from callers."""
    key = layout.recent_key(record())

    assert layout.recent_after(layout.cursor(key)) == key
    for bad in ("", "../x", "0" * 13, layout.cursor(key) + "x"):
        with pytest.raises(ValueError, match="cursor"):
            layout.recent_after(bad)
