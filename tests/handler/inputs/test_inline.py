"""Media inside the request."""

from __future__ import annotations

import base64
import io
import struct
import tracemalloc
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from handler.errors import InputFailed
from handler.inputs.inline import decode_inline, looks_inline


def encoded(format_name: str, size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    grain = np.random.default_rng(3).integers(0, 255, (*size, 3), dtype="uint8")
    Image.fromarray(grain).save(buffer, format_name)
    return buffer.getvalue()


PNG = encoded("PNG")
JPEG = encoded("JPEG")
TINY_GIF = base64.b64decode("R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==")


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("data", "suffix"),
    [(PNG, ".png"), (JPEG, ".jpg"), (encoded("WEBP"), ".webp"), (TINY_GIF, ".gif")],
)
def test_base64_becomes_a_file_named_by_its_content(tmp_path, data, suffix):
    """The bytes are those that were encoded."""
    path = decode_inline(text_of(data), tmp_path / "3_image")

    assert path == tmp_path / f"3_image{suffix}"
    assert path.read_bytes() == data
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


VARIANTS = {
    "standard": text_of(PNG),
    "url-safe": base64.urlsafe_b64encode(PNG).decode(),
    "no padding": text_of(PNG).rstrip("="),
    "lines": base64.encodebytes(PNG).decode(),
    "blanks around": f"\n\t {text_of(PNG)} \r\n",
    "data uri": f"data:image/png;base64,{text_of(PNG)}",
    "wrong declared type": f"data:image/jpeg;base64,{text_of(PNG)}",
    "no declared type": f"data:;base64,{text_of(PNG)}",
    "parameters": f"DATA:image/png;name=a.png;Base64,{text_of(PNG)}",
    "escaped base64": f"data:image/png;base64,{quote(text_of(PNG), safe='')}",
    "percent-encoded": f"data:image/png,{quote(PNG)}",
}


@pytest.mark.parametrize("value", VARIANTS.values(), ids=VARIANTS)
def test_every_way_of_writing_it_gives_the_same_file(tmp_path, value):
    """Alphabet, padding, blanks, parameters and escapes make no difference."""
    assert looks_inline(value)
    path = decode_inline(value, tmp_path / "x")

    assert path.name == "x.png"
    assert path.read_bytes() == PNG


@pytest.mark.parametrize("extra", range(5))
@pytest.mark.parametrize("escaped", [False, True])
def test_content_of_many_slices_is_put_together_right(tmp_path, extra, escaped):
    """Neither a group of four characters nor an escape is torn between slices."""
    data = PNG + np.random.default_rng(1).bytes(700_000 + extra)
    value = f"data:,{quote(data)}" if escaped else base64.encodebytes(data).decode()

    assert decode_inline(value, tmp_path / "x").read_bytes() == data


def test_large_content_takes_little_memory_beside_the_text(tmp_path):
    """No second copy of the whole is made."""
    value = text_of(PNG + bytes(12_000_000))
    tracemalloc.start()
    try:
        decode_inline(value, tmp_path / "x")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize(
    "value",
    [
        text_of(PNG)[:-8] + "!" + text_of(PNG)[-7:],
        text_of(PNG) + "ü",
        text_of(PNG)[:400] + "." + text_of(PNG)[400:],
        text_of(PNG)[:1] + text_of(PNG)[1:6] + "=" + text_of(PNG)[6:],
        "AAAA=AAA",
        "AAAAA",
        f"data:image/png;base64,{text_of(PNG)}%",
        "AA==" + " " * (1 << 18) + "AA==",
        "\ud800AAA",
    ],
)
def test_what_is_not_base64_is_refused_and_leaves_no_file(tmp_path, value):
    """No byte is skipped in silence."""
    with pytest.raises(InputFailed, match="not valid base64") as caught:
        decode_inline(value, tmp_path / "x")

    assert caught.value.status == 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (text_of(bytes([252, 253, 254, 255] * 99)), "file type not recognised"),
        (f"data:image/png;base64,{text_of(bytes(99))}", "file type not recognised"),
        (f"data:application/unheard-of;base64,{text_of(bytes(99))}", "not recognised"),
        ("data:image/png;base64,", "holds no data"),
        ("", "holds no data"),
        ("data:image/png;base64", "no comma"),
    ],
)
def test_content_of_no_known_type_is_refused_and_leaves_no_file(tmp_path, value, message):
    """An empty text, noise, and a header without data are told apart."""
    with pytest.raises(InputFailed, match=message):
        decode_inline(value, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_the_declared_type_counts_where_content_cannot_tell(tmp_path):
    """A CSV is plain text by content; a 3D format may have no signature."""
    assert decode_inline("data:text/csv,a%3Bb%0A1%3B2", tmp_path / "t").name == "t.csv"
    assert decode_inline("data:,hello", tmp_path / "h").name == "h.txt"
    flat = struct.pack("<80sI", b"", 0)
    value = f"data:model/stl;base64,{text_of(flat)}"
    assert decode_inline(value, tmp_path / "s").name == "s.stl"


@pytest.mark.parametrize(
    "value",
    [
        text_of(PNG),
        text_of(JPEG),
        text_of(JPEG)[:120],
        text_of(TINY_GIF),
        text_of(TINY_GIF).rstrip("="),
        "data:image/png;base64,broken!",
        "data:,x",
        "A" * 300,
        "not base64 at all. " * 300,
    ],
)
def test_inline_content_is_told_from_names(value):
    """A JPEG begins with a slash and is no path; what is too long for a path is content."""
    assert looks_inline(value)


@pytest.mark.parametrize(
    "value",
    [
        "example.png",
        "example.png [output]",
        "folder/example.jpg",
        "a b.webp",
        "example",
        "file",
        "frames/shot01",
        "/workspace/input",
        "/9j/photo.jpg",
        "/home/user/x",
        "../secret",
        "",
        "AAAAA",
        "R0lGOD!",
    ],
)
def test_names_are_told_from_inline_content(value):
    """A name has a dot, or does not decode to the beginning of a known type."""
    assert not looks_inline(value)
