"""What passes between those who want a model and those who have it."""

from __future__ import annotations

from handler.credentials import BearerAuth
from handler.models.records import ModelSource, Named

SECRET = "c4n4ry"


def test_no_text_of_a_source_has_its_url_or_credentials():
    """Both may hold secrets, and texts get into logs."""
    source = ModelSource(url=f"https://u:{SECRET}@x/?sig={SECRET}", auth=BearerAuth(token=SECRET))
    named = Named(
        names=("m",), urls=(f"https://x/?token={SECRET}",), folder="checkpoints", filename="m.pt"
    )

    assert SECRET not in f"{source!r} {source} {named!r} {named}"


def test_sources_are_compared_with_their_credentials():
    """Two callers share a download only when both are the same."""
    one = ModelSource(url="https://x/m.pt", auth=BearerAuth(token="a"))

    assert one == ModelSource(url="https://x/m.pt", auth=BearerAuth(token="a"))
    assert one != ModelSource(url="https://x/m.pt", auth=BearerAuth(token="b"))
    assert one != ModelSource(url="https://x/m.pt")
