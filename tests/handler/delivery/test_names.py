"""Names of what is stored."""

from __future__ import annotations

import pytest

from handler.delivery.names import (
    content_type,
    disposition,
    escaped,
    key_of,
    numbered,
    plain,
    segments,
)
from handler.media.mimes import OCTETS
from handler.targets import Targets


def s3(**fields):
    return Targets.model_validate({"s3": {"bucket": "bkt", **fields}}).s3


@pytest.mark.parametrize(
    ("name", "known", "mime"),
    [
        ("a.PNG", "", "image/png"),
        ("a.jpeg", "", "image/jpeg"),
        ("a.webp", "image/png", "image/webp"),
        ("a.mp4", "", "video/mp4"),
        ("a.weba", "", "audio/webm"),
        ("a.docx", "", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("a.pt", "", OCTETS),
        ("a.tar.gz", "", "application/gzip"),
        ("a.swf", "", "application/x-shockwave-flash"),
        ("a.xyzzy", "image/png", "image/png"),
        ("a", "", OCTETS),
        ("png", "", OCTETS),
    ],
)
def test_a_name_says_the_media_type(name, known, mime):
    """What the content says counts where the name says nothing."""
    assert content_type(name, known) == mime


def test_a_disposition_has_the_name_in_both_forms():
    """Old clients read the first, all others the second."""
    assert disposition("inline", "cat.png") == 'inline; filename="cat.png"'
    header = disposition("attachment", 'ä "1"\r\n;猫.png')
    assert header == (
        "attachment; filename=\"_ _1___;_.png\"; filename*=UTF-8''"
        "%C3%A4%20%221%22%0D%0A%3B%E7%8C%AB.png"
    )
    assert header.isascii()


def test_a_key_is_prefix_and_name_as_they_are(output):
    """The caller brings the slash."""
    cat = output("a b猫.png")

    assert key_of(s3(prefix="out"), cat, "j") == "outa b猫.png"
    assert key_of(s3(), cat, "j") == "a b猫.png"


def test_a_template_makes_other_keys(output):
    """Whatever is filled in is one part of a path."""
    cat = output("cat.v1.png", node="12:3")
    target = s3(prefix="p/", key="{prefix}{id}/{node}/{stem}-{sha256}.{ext}|{filename}")

    key = key_of(target, cat, "../../a\\b\n")

    assert key == f"p/.._.._a_b_/12:3/cat.v1-{cat.sha256}.png|cat.v1.png"
    assert key_of(s3(key="{id}/{ext}{stem}"), output("none"), "..") == "__/none"
    assert key_of(s3(key="{{{id}}}"), cat, "{node}") == "{{node}}"


def test_names_that_are_taken_are_numbered():
    """Before the extension."""
    assert numbered("a/b.png", 2) == "a/b-2.png"
    assert numbered("a.b/c", 3) == "a.b/c-3"
    assert numbered(".png", 2) == ".png-2"


def test_urls_are_written_in_the_ways_that_are_needed():
    """For a request, for an answer, and for the hub."""
    name = "a b/50%?#猫+.png"

    assert escaped(name) == "a%20b/50%25%3F%23%E7%8C%AB+.png"
    assert plain(name) == "a b/50%25%3F%23猫+.png"
    assert segments(name) == "a%20b/50%25%3F%23%E7%8C%AB%2B.png"
