"""Names of model files: what callers may choose, and what we give."""

from __future__ import annotations

import pytest

from handler.errors import InvalidPayload
from handler.models.names import (
    bare_url,
    check_filename,
    has_userinfo,
    is_signed,
    leaf_for,
    place_id,
    published_name,
    url_id,
    url_suffix,
)

CHECKED = "https://civitai.com/api/download/models/128713?type=Model&format=SafeTensor&size=pruned&fp=fp16"
TENSORS = (70).to_bytes(8, "little") + b'{"w":  {'


@pytest.mark.parametrize(
    "name", ["a.safetensors", "ünïcode 模型.pt", "a b (1).ckpt", "x" * 251 + ".bin", "console.pt"]
)
def test_plain_names_are_taken_as_they_are(name):
    """A leaf, in any script."""
    assert check_filename(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("../a.safetensors", "/"),
        ("comfyfn-probe-a.pt", "no models"),
        ("a/b.pt", "/"),
        ("a\\b.pt", r"\\"),
        ("C:a.pt", ":"),
        ("a\n.pt", "control"),
        ("a\0.pt", "control"),
        ("a\x7f.pt", "control"),
        ("a\u2028.pt", "control"),
        ("a\udc80.pt", "control"),
        ("a?.pt", r"\?"),
        ('a*|<>".pt', r"\*"),
        ("a.pt.", "ends with"),
        ("a.pt ", "ends with"),
        (".", "begins with"),
        ("..", "begins with"),
        (".hidden.pt", "begins with"),
        ("nul", "device"),
        ("CON.safetensors", "device"),
        ("com1 .pt", "device"),
        ("LPT\u00b9.pt", "device"),
        ("a\uff0fb.pt", "/"),
        ("a\uff1a.pt", ":"),
        ("\u2024\u2024", "begins with"),
        ("x" * 252 + ".bin", "255 bytes"),
        ("模" * 84 + ".bin", "255 bytes"),
        ("ﷺ" * 14 + ".bin", "255 bytes"),
    ],
)
def test_names_that_some_system_does_not_take_are_refused(name, why):
    """Also when they only become so by Unicode's compatibility forms."""
    with pytest.raises(InvalidPayload, match=why):
        check_filename(name)


def test_a_published_name_is_of_the_content():
    """Readable, stable, and another one for other bytes."""
    one = published_name("m.safetensors", "sha256-" + "ab" * 32)
    assert one == "m-ababababab.safetensors"
    two = published_name("m.safetensors", "url-" + "x" * 32)
    assert two == published_name("m.safetensors", "url-" + "x" * 32)
    assert two != published_name("m.safetensors", "url-" + "y" * 32)
    assert check_filename(two) == two
    long = published_name("模" * 200 + ".safetensors", "sha256-" + "ab" * 32)
    assert check_filename(long) == long


@pytest.mark.parametrize(
    ("url", "hint", "head", "suffix", "leaf"),
    [
        ("https://x/a/m.safetensors?b=1", "", b"", "", "m.safetensors"),
        ("https://x/a/m.CKPT", "", b"", "", "m.ckpt"),
        ("https://x/api/1", "real.pt", b"", "", "real.pt"),
        ("https://x/api/1", "", TENSORS, ".pt", "1.safetensors"),
        ("https://x/m.ckpt", "", TENSORS, "", "m.safetensors"),
        ("https://x/m.sft", "", TENSORS, "", "m.sft"),
        ("https://x/api/1", "", b"GGUF\3", "", "1.gguf"),
        ("https://x/api/1", "", b"PK\3\4", ".pth", "1.pth"),
        ("https://x/api/1", "", b"PK\3\4", "", "1.bin"),
        ("https://x/api/1", "", b"PK\3\4", ".exe", "1.bin"),
        ("https://x/", "", b"", "", "model.bin"),
        ("https://x/a%2F..%2Fe%0Avil.pt", "", b"", "", "e_vil.pt"),
        ("https://x/a", "...con.pt", b"", "", "_con.pt"),
        ("https://x/a", "comfyfn-probe-a.pt", b"", "", "_comfyfn-probe-a.pt"),
        ("https://x/a", 'q"?<.safetensors', b"", "", "q___.safetensors"),
        ("http://[", "", b"", "", "model.bin"),
    ],
)
def test_a_leaf_is_readable_and_ends_as_the_engine_needs(url, hint, head, suffix, leaf):
    """The bytes count most, then the source, then the URL, then where it is for."""
    got = leaf_for(url, hint, head, 1000, suffix)
    assert got == leaf
    assert check_filename(got) == got


def test_a_urls_id_is_that_of_comfyui_api():
    """Its caches are found by it; user and password are no part of ours."""
    assert url_id(CHECKED) == "Pk6VSKLStckZydwGhX0bM8TqaqHEW9yt"
    assert url_id("https://u:p@x/a") == url_id("https://x/a") != url_id("https://x/a?b")
    assert place_id("https://u:p@x/a?b#c") == place_id("https://x/a") != place_id("https://x/b")


def test_user_and_password_are_told_from_the_rest():
    """An `@` in a path is none."""
    assert bare_url("https://u:p@x/a@b?c=@d") == "https://x/a@b?c=@d"
    assert has_userinfo("https://token@x/")
    assert not has_userinfo("https://x/@a")
    assert bare_url("http://[") == "http://["


@pytest.mark.parametrize(
    ("url", "signed"),
    [
        (CHECKED, False),
        ("https://x/a?download=true", False),
        ("https://x/a?X-Amz-Signature=1", True),
        ("https://x/a?sv=1&sig=1", True),
        ("https://x/a?token=1", True),
        ("https://x/a?z=" + "1" * 40, True),
        ("http://[?", True),
    ],
)
def test_a_query_with_a_right_in_it_is_known(url, signed):
    """By its names, or by a value as long as secrets are."""
    assert is_signed(url) is signed


def test_a_urls_suffix_is_that_of_a_model():
    """Others are none."""
    assert url_suffix("https://x/a.SAFETENSORS?x=.pt") == ".safetensors"
    assert url_suffix("https://x/a.php") == ""
