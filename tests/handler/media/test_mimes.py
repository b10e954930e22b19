"""Media types by name."""

from __future__ import annotations

import pytest

from handler.media.mimes import EXTENSIONS, OCTETS, kind_of, matches, mime_of, refine


@pytest.mark.parametrize(("mime", "extension"), EXTENSIONS.items())
def test_every_extension_leads_back_to_its_type(mime, extension):
    """The two tables agree."""
    assert mime_of(f"file{extension}") == mime


@pytest.mark.parametrize(
    ("filename", "mime"),
    [
        ("A.JPEG", "image/jpeg"),
        ("a.b.tif", "image/tiff"),
        ("noextension", OCTETS),
        ("a.unheardof", OCTETS),
        ("", OCTETS),
    ],
)
def test_a_name_gives_its_type_whatever_its_case(filename, mime):
    """The last extension counts; an unknown one is octets."""
    assert mime_of(filename) == mime


@pytest.mark.parametrize(
    ("mime", "filename", "kind"),
    [
        ("image/png", "x", "image"),
        ("video/mp4", "x", "video"),
        ("audio/ogg", "x", "audio"),
        ("model/obj", "x", "model3d"),
        ("text/csv", "x", "text"),
        ("application/json", "x", "text"),
        ("application/zip", "x", "file"),
        (OCTETS, "cloud.splat", "model3d"),
        (OCTETS, "x", "file"),
    ],
)
def test_a_type_has_a_kind(mime, filename, kind):
    """The kind follows the family; of octets, the name."""
    assert kind_of(mime, filename) == kind


@pytest.mark.parametrize(
    ("sniffed", "filename", "refined"),
    [
        ("text/plain", "a.csv", "text/csv"),
        ("text/plain", "a.yml", "application/yaml"),
        ("text/plain", "a.png", "text/plain"),
        ("application/zip", "a.npz", "application/x-npz"),
        ("audio/ogg", "a.opus", "audio/opus"),
        ("image/png", "a.jpg", "image/png"),
    ],
)
def test_a_name_refines_a_type_within_its_family_only(sniffed, filename, refined):
    """Content wins over the name, but for the families that content cannot split."""
    assert refine(sniffed, filename) == refined


@pytest.mark.parametrize(
    ("wanted", "mime", "fits"),
    [
        ("image", "image/gif", True),
        ("image", "video/mp4", False),
        ("video", "video/webm", True),
        ("video", "image/gif", True),
        ("video", "image/webp", False),
        ("audio", "audio/mpeg", True),
        ("audio", "video/mp4", True),
        ("audio", "image/png", False),
        ("file", "text/html", True),
        ("file", None, True),
        ("image", None, False),
    ],
)
def test_a_node_takes_the_types_that_it_can_load(wanted, mime, fits):
    """A GIF passes for a film, and a film for sound."""
    assert matches(wanted, mime) is fits
