"""A manifest's records."""

from __future__ import annotations

import pytest

from handler.manifest.records import Manifest, ModelFile

URL = "https://e.org/api/9?token=canary4711"


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"name": "mine", "folder": "vae", "filename": "a.bin"}, "mine"),
        ({"folder": "vae", "filename": "sub/a.bin"}, "a.bin"),
        ({"local_path": "models/vae/b.bin"}, "b.bin"),
    ],
)
def test_a_model_is_called_by_its_name_else_by_its_file(fields, label):
    """Never by its URL, where it has a place."""
    assert ModelFile(urls=(URL,), **fields).label == label


def test_secrets_of_urls_are_in_no_text():
    """A token may stand in the query."""
    assert "canary4711" not in repr(ModelFile(urls=(URL,), folder="vae", filename="a.bin"))


def test_models_are_those_before_and_after_the_start():
    """In this order; the catalogue is not fetched by itself."""
    one, two, three = (ModelFile(urls=(URL,), folder="vae", filename=n) for n in "abc")
    manifest = Manifest(before_start=(one,), after_start=(two,), catalogue={"c": three})
    assert manifest.models == (one, two)
