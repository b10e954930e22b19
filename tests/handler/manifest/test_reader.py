"""Values by their type; what does not fit is a fault and left out."""

from __future__ import annotations

import pytest

from handler.manifest.document import parse_document
from handler.manifest.reader import Reader


def read(text):
    return Reader(parse_document(text, is_json=False), "x", [])


def told(reader):
    return [str(fault) for fault in reader.faults]


def test_keys_that_nobody_knows_are_told_with_the_nearest():
    """And those without a value are left out."""
    reader = read("sise: 1\nurl: a\nsize:\n")
    assert list(reader.keys("size", "url")) == ["url"]
    assert told(reader) == ["line 1, x.sise: is no key here; did you mean size?"]


@pytest.mark.parametrize(
    ("call", "text", "wanted"),
    [
        ("keys", "[]", "must be a mapping with keys, not a list"),
        ("items", "a: 1", "must be a list, not a mapping"),
        ("text", "true", "must be a text, not 'true'"),
        ("text", "[]", "must be a text, not a list"),
        ("flag", "maybe", "must be true or false, not 'maybe'"),
        ("number", "-1", "must be a number above 0, not '-1'"),
        ("number", ".inf", "must be a number above 0, not '.inf'"),
    ],
)
def test_another_type_is_a_fault(call, text, wanted):
    """In words that say what is there."""
    reader = read(text)
    getattr(reader, call)()
    assert told(reader) == [f"line 1, x: {wanted}"]


def test_whole_numbers_have_no_fraction():
    """A size of bytes."""
    reader = read("1.5")
    assert reader.number(whole=True) is None
    assert "whole number" in told(reader)[0]


def test_a_text_stays_as_it_was_written():
    """`1.10` is no 1.1."""
    assert read("1.10").text() == "1.10"


def test_what_a_parser_refuses_is_a_fault_without_its_secrets():
    """User, password and the query's values are blotted out, and long texts cut."""

    def refuse(_):
        raise ValueError("is no good")

    reader = read("https://me:canary@e.org/x?token=canary")
    assert reader.parsed(refuse) is None
    assert told(reader) == ["line 1, x: 'https://...@e.org/x?...' is no good"]

    reader = read("z" * 200)
    reader.parsed(refuse)
    assert "z..." in told(reader)[0]
    assert len(told(reader)[0]) < 120


def test_one_of_some_words():
    """Another one is told with the choice."""
    reader = read("c")
    assert reader.choice("a", "b") is None
    assert told(reader) == ["line 1, x: must be a or b, not 'c'"]


def test_lists_give_what_could_be_read():
    """A bad member does not hide the others."""
    reader = read("[a, {}, b]")
    assert reader.texts(str.upper) == ("A", "B")
    assert told(reader) == ["line 1, x[1]: must be a text, not a mapping"]
