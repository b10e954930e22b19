"""Texts of others on a terminal."""

from __future__ import annotations

import pytest

from local_server.cli.plain import plain


@pytest.mark.parametrize("text", ["\x1b[2J", "\x1b]52;c;ZXZpbA==\x07", "\x9b31m", "a\rb", "\x00"])
def test_a_text_is_shown_and_does_nothing(text: str) -> None:
    """What a terminal would take for a command loses what makes it one."""
    shown = plain(text)

    assert len(shown) == len(text)
    assert shown.isprintable()


@pytest.mark.parametrize("text", ["two\nlines", "a\tb", "\u00e4\u4e2d\U0001f600", ""])
def test_what_people_write_stays(text: str) -> None:
    """Lines and tabs, and letters of any language."""
    assert plain(text) == text
