"""How many restores in a row were of no use."""

from __future__ import annotations

import json

import pytest

from adapters.modal_restores import Restores


def test_two_failures_in_a_row_are_enough(tmp_path):
    """Counted in a file that the next container reads, too."""
    file = tmp_path / "volume" / "restores.json"
    assert not Restores(file, "a").given_up

    assert Restores(file, "a").failed("no GPU") == 1
    assert not Restores(file, "a").given_up
    assert Restores(file, "a").failed("no GPU again") == 2

    found = Restores(file, "a")
    assert (found.failures, found.given_up) == (2, True)
    assert "no GPU again" in found.said
    assert str(file) in found.said
    assert [path.name for path in file.parent.iterdir()] == ["restores.json"]


def test_one_that_passes_begins_the_count_anew(tmp_path):
    """Failures that are not in a row do not add up."""
    restores = Restores(tmp_path / "file", "a")
    restores.passed()
    assert not (tmp_path / "file").exists()
    restores.failed("x")
    restores.passed()
    restores.failed("y")

    assert Restores(tmp_path / "file", "a").failures == 1


def test_another_image_is_tried_anew(tmp_path):
    """A new deploy may have mended it; and so may who removes the file."""
    file = tmp_path / "file"
    for _ in range(2):
        Restores(file, "a").failed("x")

    assert Restores(file, "b").failures == 0
    assert Restores(file, "b").failed("y") == 1
    file.unlink()
    assert not Restores(file, "b").given_up


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"image": "a"}', '{"image": "a", "failures": -1}']
)
def test_a_damaged_file_counts_nothing(tmp_path, text):
    """And is written over."""
    file = tmp_path / "file"
    file.write_text(text)
    restores = Restores(file, "a")

    assert restores.failures == 0
    assert restores.failed("x") == 1
    assert json.loads(file.read_text())["failures"] == 1


def test_a_place_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    """A Volume may be read-only; the worker starts all the same."""
    (tmp_path / "file").write_text("")
    restores = Restores(tmp_path / "file" / "below", "a")

    restores.failed("x")

    assert "are not counted" in caplog.text


def test_without_a_file_they_are_counted_here(tmp_path):
    """For as long as the process lives."""
    restores = Restores(None, "a")
    assert [restores.failed("x"), restores.failed("x")] == [1, 2]
    assert restores.given_up
    restores.passed()
    assert not restores.given_up
