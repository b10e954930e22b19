"""The catalog of nodes."""

from __future__ import annotations

from local_server.engine.nodes import catalog


def test_nodes_that_fail_on_purpose_are_there_only_if_asked_for():
    """A server never shows them by itself."""
    plain, all_of_them = catalog(test_faults=False), catalog(test_faults=True)

    extra = set(all_of_them) - set(plain)
    assert extra
    assert all(name.startswith("Test") for name in extra)
    assert {"LoadImage", "SaveImage", "ImageInvert"} <= set(plain)
