"""Texts of others on a terminal."""

from __future__ import annotations

import re

# All controls but tab and newline: some of them clear a screen, and some write to a clipboard.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: object) -> str:
    """Give a text of a server as a terminal shows it, and does nothing else with it."""
    return _CONTROLS.sub("\ufffd", str(text))
