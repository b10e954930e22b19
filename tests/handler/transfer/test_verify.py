"""Is what came the file that was meant."""

from __future__ import annotations

import hashlib
import json
import math
import struct

import pytest
from sources.host import safetensors

from handler.transfer.verify import (
    Corrupt,
    check_hash,
    check_no_page,
    check_safetensors,
    is_page_type,
    page_instead,
    sha256_of,
)


def made(header: object, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(begin: int, end: int, dtype: str = "F16", shape: object = None) -> dict[str, object]:
    shape = [(end - begin) // 2] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = {
    "__metadata__": {"format": "pt"},
    "b": tensor(4, 10),
    "a": tensor(0, 4),
    "c": tensor(10, 12, "Q9", [7]),
    "e": tensor(12, 12, "F32", [0]),
    "s": tensor(12, 16, "F32", []),
}


def test_a_whole_file_passes(tmp_path):
    """In any order, with metadata, kinds of numbers that are not known, scalars and empty ones."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(made(GOOD, b"x" * 16))
    check_safetensors(path, "it")
    path.write_bytes(safetensors(1000))
    check_safetensors(path, "it")
    path.write_bytes(made({}, b""))
    check_safetensors(path, "it")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it has 0 bytes"),
        (b"PK\x03", "it has 3 bytes"),
        (struct.pack("<Q", 1 << 60) + b"{}", "within its header"),
        (made(GOOD, b"x" * 16)[:40], "within its header"),
        (made(GOOD, b"x" * 15), "promises"),
        (made(GOOD, b"x" * 17), "promises"),
        (made({"a": tensor(0, 4), "b": tensor(2, 6)}, b"x" * 6), "overlap"),
        (made({"a": tensor(0, 4), "b": tensor(6, 8)}, b"x" * 8), "holes"),
        (made({"a": tensor(0, 4, shape=[3])}, b"x" * 4), "cannot be read"),
        (made({"a": {"dtype": "F16"}}, b""), "cannot be read"),
        (made([1], b""), "cannot be read"),
        (made({"a": 1}, b""), "cannot be read"),
        (struct.pack("<Q", 4) + b"\xff\xfe{}", "cannot be read"),
        (struct.pack("<Q", 90_000) + b"[" * 90_000, "cannot be read"),
        (made({"a": {**tensor(0, 2), "data_offsets": [0, math.inf]}}, b"xx"), "cannot be read"),
        (made({"a": {**tensor(0, 2), "data_offsets": [0, 2.0]}}, b"xx"), "cannot be read"),
        (made({"a": tensor(0, 2, shape=[10**12, "x"])}, b"xx"), "cannot be read"),
        (made({"a": tensor(0, 2, shape=[10**4000] * 100)}, b"xx"), "cannot be read"),
        (made({"a": tensor(0, 2, shape=[-1, -1])}, b"xx"), "cannot be read"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path, content, told):
    """And it is told how."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)

    with pytest.raises(Corrupt, match=told):
        check_safetensors(path, "it")


@pytest.mark.parametrize(
    ("content", "page"),
    [
        (b"<!DOCTYPE html>...", True),
        (b"\xef\xbb\xbf \n<HTML>", True),
        (b"<?xml version='1.0'?><Error/>", True),
        (b'{"error": "login"}', True),
        (b"[]", True),
        (b"[" * 100_000, True),
        (b"{\0\0\0\0\0\0\0{}", False),
        (b"<\0\0\0\0\0\0\0{}", False),
        (b"PK\x03\x04", False),
        (b"GGUF", False),
        (b"", False),
    ],
)
def test_pages_are_known_by_their_bytes(tmp_path, content, page):
    """A model may begin with a bracket, too."""
    path = tmp_path / "m"
    path.write_bytes(content)
    if page:
        with pytest.raises(Corrupt, match="web page"):
            check_no_page(path, "m.ckpt", "civitai.com", "it")
    else:
        check_no_page(path, "m.ckpt", "civitai.com", "it")
    check_no_page(path, "config.json", "civitai.com", "it")


def test_the_provider_and_its_token_are_named():
    """Where it is known which."""
    assert "CIVITAI_API_TOKEN" in str(page_instead("civitai.com", "it").hint)
    assert "HF_TOKEN" in str(page_instead("cdn-lfs.huggingface.co", "it").hint)
    assert "credentials" in str(page_instead("nothuggingface.co", "it").hint)


def test_media_types_of_pages():
    """A configuration may be JSON."""
    assert is_page_type("text/html", "m.safetensors")
    assert is_page_type("application/json", "m")
    assert not is_page_type("application/json", "model_index.json")
    assert not is_page_type("application/octet-stream", "m.safetensors")


def test_hashes(tmp_path):
    """Upper case and a prefix are taken."""
    path = tmp_path / "m"
    path.write_bytes(b"abc")
    true = hashlib.sha256(b"abc").hexdigest()

    assert sha256_of(path) == true
    check_hash(f"sha256:{true.upper()}".replace("SHA256", "sha256"), true, "it")
    with pytest.raises(Corrupt, match="SHA-256"):
        check_hash("0" * 64, true, "it")
