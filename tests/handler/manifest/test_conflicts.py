"""Who is to blame, from the lines themselves and from uv's words."""

from __future__ import annotations

import pytest

from handler.manifest.commands import Done
from handler.manifest.conflicts import Conflict, askers, conflict_of, direct_conflicts, sort_out
from handler.manifest.faults import InstallFailed
from handler.manifest.requirements import Installed, Line, Wanted

SPARE = Wanted("spare", (Line("torch==1.0", "requirements.txt:1"),), optional=True)
OWN = Wanted("pip", (Line("Leaf>=1", "pip:1"), Line("-c limits.txt", "pip:2")))


def test_a_line_against_what_stays_is_found_without_uv():
    """With its place."""
    (found,) = direct_conflicts([SPARE, OWN], {"torch": "2.8.0"}, Installed({"torch": "2.8.0"}))
    assert (found.owner, found.packages) == ("spare", ("torch",))
    assert found.why == "requirements.txt:1 wants 'torch==1.0', and torch 2.8.0 has to stay"


def test_an_optional_party_is_left_out_and_another_is_an_error(caplog):
    """The error has the party's title and the reason."""
    left, dropped = sort_out([SPARE, OWN], [Conflict("spare", ("torch",), "no way")])
    assert (left, dropped) == ([OWN], {"spare": "no way"})
    assert "node pack spare goes without its packages: no way" in caplog.text
    with pytest.raises(InstallFailed, match=r"^pip: no way"):
        sort_out([OWN], [Conflict("pip", (), "no way")])


def test_those_who_name_a_package_are_found_whatever_its_spelling():
    """Options name none."""
    assert askers("leaf", [SPARE, OWN]) == [OWN]


@pytest.mark.parametrize("mark", ["  ╰─▶ ", "  cause: "])
def test_the_reason_is_the_part_after_uvs_mark(mark):
    """In both ways that uv draws it; of its words those are packages that somebody asked for."""
    tail = ("error: No solution found", f"{mark}Because torch==1.0 and leaf", "", "hint: x")
    found = conflict_of(OWN, Done(1, "", tail, 0.1), [OWN, SPARE])
    assert found.why == "Because torch==1.0 and leaf"
    assert found.packages == ("torch", "leaf")
