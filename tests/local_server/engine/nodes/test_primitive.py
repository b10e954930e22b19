from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PrimitiveString", "a"),
        ("PrimitiveStringMultiline", "a\nb"),
        ("PrimitiveInt", -3),
        ("PrimitiveFloat", 0.5),
        ("PrimitiveBoolean", True),
    ],
)
def test_values_are_given_on(run: Any, name: str, value: Any) -> None:
    """A primitive does nothing to its value."""
    assert run(name, value=value) == (value,)


def test_texts_are_joined(run: Any) -> None:
    """With the delimiter between."""
    joined = run("StringConcatenate", string_a="a", string_b="b", delimiter=", ")

    assert joined == ("a, b",)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a", "a"),
        (1, "1"),
        (0.5, "0.5"),
        (True, "True"),
        (None, "None"),
        ([1, "a"], '[1, "a"]'),
        ({1, 2}, "{1, 2}"),
    ],
)
def test_anything_is_shown_as_text(run: Any, source: Any, text: str) -> None:
    """What JSON cannot say is shown as Python does."""
    assert run("PreviewAny", source=source).ui == {"text": [text]}
