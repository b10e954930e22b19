"""What a caller's right is, by their source alone; with real sources it is in test_store.py."""

from __future__ import annotations

import pytest

from handler.credentials import BearerAuth
from handler.models.access import denied, is_anonymous, needs_right, origin_of
from handler.models.records import ModelSource
from handler.transfer.base import AccessDenied

TOKEN = BearerAuth(token="s3cret")


@pytest.mark.parametrize(
    ("source", "anonymous", "right", "public"),
    [
        (ModelSource(url="https://x/a"), True, False, True),
        (ModelSource(url="https://x/a", auth=TOKEN), False, True, False),
        (ModelSource(url="https://u:p@x/a"), False, True, False),
        (ModelSource(url="https://x/a?sig=1"), True, True, True),
        (ModelSource(url="https://x/a?sig=1", operator=True), True, False, False),
        (ModelSource(url="https://u:p@x/a", operator=True), False, False, False),
    ],
)
def test_whose_right_a_file_is_had_by(source, anonymous, right, public):
    """The operator's is everybody's, once their way to the URL was checked."""
    assert is_anonymous(source) is anonymous
    assert needs_right(source) is right
    assert origin_of(source).public is public


def test_a_refusal_says_that_the_file_is_here_and_tells_no_secret():
    """With what to do about it."""
    source = ModelSource(url="https://u:s3cret@x/a?sig=s3cret", auth=TOKEN)
    fault = denied(source, AccessDenied("x: 401"))

    assert "is in the cache" in fault.message
    assert fault.hint is not None
    assert "s3cret" not in repr(fault.envelope())
