"""What the faults of huggingface_hub become."""

from __future__ import annotations

import errno

import pytest

from handler.errors import InputFailed
from handler.transfer.hub_faults import Elsewhere, Left, final, translated


def becomes(fault):
    with pytest.raises(Exception) as caught, translated("a/b", "dataset", "main", "m.bin"):
        raise fault
    return caught.value


def test_what_is_no_fault_of_the_hub_passes():
    """Our own, the way out of a cancelled download, and a disk that is full."""
    for fault in (InputFailed("x"), Left(), OSError(errno.ENOSPC, "full")):
        assert becomes(fault) is fault


@pytest.mark.parametrize("fault", [OSError("no route"), RuntimeError("of some HTTP client")])
def test_what_the_library_does_not_know_passes_by(fault):
    """Its HTTP client changes: whatever it raises may not come again."""
    made = becomes(fault)
    assert isinstance(made, InputFailed)
    assert made.retryable
    assert made.message.startswith("m.bin of a/b at main: the hub cannot be reached")


def test_the_last_choice_tells_what_is_not_there():
    """There is none left that could be right."""
    with pytest.raises(InputFailed, match="there is none"), final():
        raise Elsewhere(InputFailed("there is none"))
