"""What is wrong, in words."""

from __future__ import annotations

import pytest

from handler.errors import BootFailed
from handler.manifest.faults import Fault, InstallFailed, ManifestInvalid
from handler.manifest.schema import parse_manifest


def test_message_holds_every_fault():
    """The error's text lists them, one a line."""
    with pytest.raises(
        ManifestInvalid, match=r"(?s)2 faults:\n  line 1, x: .*\n  line 2, y: "
    ) as got:
        parse_manifest("x: 1\ny: 2\n")
    assert len(got.value.details) == 2
    assert got.value.blame == "image"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(3, "pip[0]", "is bad"), "line 3, pip[0]: is bad"),
        (Fault(0, "pip", "is bad"), "pip: is bad"),
        (Fault(0, "", "is bad"), "is bad"),
    ],
)
def test_a_fault_names_what_is_known_of_its_place(fault, told):
    """Line and path, either or neither."""
    assert str(fault) == told


def test_faults_are_told_from_top_to_bottom():
    """Whatever order they were found in; and they end a boot like any other failure."""
    error = ManifestInvalid("m.yaml", [Fault(2, "", "b"), Fault(1, "", "a")])
    assert [fault.line for fault in error.faults] == [1, 2]
    assert isinstance(error, BootFailed)
    assert InstallFailed("x").blame == "image"
