"""What the list of models tells."""

from __future__ import annotations

import json
import os

import pytest

from handler.models.store import Store
from handler.settings import Settings
from local_server.cli.model_map import model_map
from local_server.cli.models_list import brought_by_manifest, describe, print_folders

KEY = "sha256-" + "a" * 64


@pytest.fixture
def settings(tmp_path):
    """Folders of our own, and a manifest that brings one file."""
    (tmp_path / "models" / "loras").mkdir(parents=True)
    (tmp_path / "vol").mkdir()
    (tmp_path / "models" / "loras" / "mine.ckpt").write_bytes(b"12345")
    url = "https://e.org/mine.ckpt"
    manifest = {"models": {"before_start": [{"url": url, "folder": "loras"}]}}
    return Settings.from_env(
        {
            "ENGINE": "embedded",
            "MODEL_DIR": str(tmp_path / "models"),
            "MODEL_ROOTS": str(tmp_path / "vol"),
            "MANIFEST_JSON": json.dumps(manifest),
        }
    )


@pytest.fixture
def cached(tmp_path):
    """Put an object into the store, with or without a name; give the store."""

    def put(*links, url="https://e.org/m.ckpt", protected=False):
        objects = tmp_path / "cache" / "objects"
        objects.mkdir(parents=True)
        (objects / "m.ckpt").write_bytes(b"weights")
        for link in links:
            os.link(objects / "m.ckpt", link)
        origin = {"url": url, "id": "i", "place": "p", "public": True}
        note = {
            "version": 1, "key": KEY, "file": "objects/m.ckpt", "bytes": 7, "sha256": "a" * 64,
            "etag": None, "leaf": "m.ckpt", "protected": protected, "verified": True,
            "created": 0.0, "urls": [origin] if url else [], "links": [str(link) for link in links],
        }  # fmt: skip
        (objects / f"{KEY}.json").write_text(json.dumps(note))
        store = Store(tmp_path / "cache")
        store.open()
        return store

    return put


@pytest.fixture
def shown(settings, capsys):
    """Print the list of a store."""

    def show(store, only=None, *, whole=False):
        found = model_map(settings, ())
        print_folders(describe(found, store, only, brought_by_manifest(settings)), whole=whole)
        return capsys.readouterr().out

    return show


def test_what_the_manifest_brings_is_told(shown, tmp_path):
    """By its place."""
    store = Store(tmp_path / "cache")
    store.open()
    assert "5 B  mine.ckpt  from the manifest\n" in shown(store)


def test_a_manifest_that_cannot_be_read_tells_nothing():
    """The doctor does."""
    assert brought_by_manifest(Settings.from_env({"MANIFEST_JSON": "{"})) == frozenset()


def test_a_file_without_a_name_is_listed_by_its_key(shown, cached):
    """So that it can be removed."""
    text = shown(cached())
    assert "in no folder" in text
    assert "7 B  m.ckpt  from https://e.org/m.ckpt" in text
    assert KEY[:23] in text


def test_words_that_need_it_are_explained_where_they_stand(shown, cached, tmp_path):
    """In one line each."""
    link = tmp_path / "models" / "loras" / "two.ckpt"
    text = shown(cached(link, url="", protected=True))
    assert "two.ckpt  from elsewhere, used " in text
    assert "protected: it was had with credentials" in text
    assert "from elsewhere: it was in a cache of comfyui-api" in text
    assert "in no folder" not in text


def test_plain_names_are_not_explained(shown, cached, tmp_path):
    """There is nothing to say."""
    text = shown(cached(tmp_path / "models" / "loras" / "two.ckpt"))
    assert "elsewhere" not in text
    assert "protected" not in text


def test_configurations_are_one_line_unless_all_are_wanted(shown, tmp_path):
    """Eleven of them come with ComfyUI."""
    store = Store(tmp_path / "cache")
    store.open()
    (tmp_path / "models" / "configs").mkdir()
    for number in range(11):
        (tmp_path / "models" / "configs" / f"{number}.yaml").write_bytes(b"12")
    assert "configs: 11 files, 22 B (--all tells each)\n" in shown(store)
    assert "10.yaml" in shown(store, whole=True)


def test_a_folder_that_comfyui_does_not_read_is_told(shown, tmp_path):
    """A node pack may."""
    store = Store(tmp_path / "cache")
    store.open()
    folder = tmp_path / "vol" / "models" / "checkpoint"
    folder.mkdir(parents=True)
    (folder / "a.ckpt").write_bytes(b"12")
    assert "checkpoint: 1 file, 2 B, a folder that ComfyUI itself does not read\n" in shown(store)
