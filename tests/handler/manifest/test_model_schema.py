"""Entries of models, by themselves."""

from __future__ import annotations

import pytest

from handler.manifest.document import parse_document
from handler.manifest.model_schema import read_catalogue, read_models
from handler.manifest.reader import Reader


def models(text):
    reader = Reader(parse_document(text, is_json=False), "", [])
    return read_models(reader), [fault.message for fault in reader.faults]


def test_no_models_are_none():
    """The key may be missing."""
    assert read_models(None) == ()
    assert read_catalogue(None) == {}


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("{url: 'https://e.org/a%20b.bin?x=1', folder: vae}", "a b.bin"),
        ("{url: 'https://e.org/a.bin', folder: vae, filename: sub/b.bin}", "sub/b.bin"),
        ("{url: 's3://bucket/key/a.bin', folder: vae}", "a.bin"),
        ("{url: 'file:///mnt/a.bin', folder: vae}", "a.bin"),
    ],
)
def test_a_file_in_a_folder_is_named_by_its_url_unless_told(entry, name):
    """Without the query, and unescaped."""
    (model,), faults = models(f"[{entry}]")
    assert (model.folder, model.filename, faults) == ("vae", name, [])


def test_a_local_path_that_is_a_folder_takes_the_urls_name():
    """As comfyui-api's manifests have it."""
    (model,), _ = models("[{url: 'https://e.org/a.bin', local_path: models/vae/}]")
    assert model.local_path == "models/vae/a.bin"


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("{url: 'https://e.org/a.bin'}", "must have `local_path`, or `folder`"),
        ("{folder: vae}", "must have `url`"),
        ("{url: 'https://e.org/api/1', folder: vae}", "needs `filename`"),
        ("{url: 'hf://owner/name/a.bin', folder: vae}", "is no URL"),
        ("{url: 'ftp://e.org/a.bin', folder: vae}", "is no URL"),
        ("{url: 'https://e.org/a.bin', folder: vae, local_path: x}", "cannot go with"),
        ("{url: 'https://e.org/a.bin', folder: ../vae}", "relative name"),
        ("{url: 'https://e.org/a.bin', folder: vae, sha256: abc}", "is no sha256"),
        ("{url: 'https://e.org/a.bin', folder: vae, size: 0}", "above 0"),
    ],
)
def test_what_cannot_be_meant_is_a_fault(entry, told):
    """Each in words that say what to write."""
    _, faults = models(f"[{entry}]")
    assert any(told in fault for fault in faults), faults


def test_hashes_may_bear_their_kind_and_be_upper_case():
    """All forms are one."""
    digits = "AB" * 32
    (model,), _ = models(f"[{{url: 'https://e.org/a.b', folder: vae, sha256: 'sha256:{digits}'}}]")
    assert model.sha256 == digits.lower()
