"""`comfyfn models`: list, add and remove without a running engine."""

from __future__ import annotations

import json

import pytest
from contract.file_server import file_server
from shell import comfyfn

from local_server.cli.models import size_text

CANARY = "canary4711"


@pytest.fixture
def source():
    with file_server() as files:
        yield files


@pytest.fixture
def models(tmp_path):
    """Run the verb on folders of its own."""
    (tmp_path / "models").mkdir()

    def run(*arguments):
        return comfyfn(
            "models",
            *arguments,
            home=tmp_path,
            ENGINE="embedded",
            MODEL_DIR=str(tmp_path / "models"),
            CACHE_DIR=str(tmp_path / "cache"),
        )

    return run


def listed(models):
    said = models("list", "--json")
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def test_a_file_is_added_listed_and_removed(models, source, tmp_path):
    """The cache's copy and the link go together, and the bytes are told."""
    url = source.put("/m.ckpt", b"w" * 2_000_000, "application/octet-stream")

    added = models("add", f"{url}?token={CANARY}", "loras", "--filename", "mine.ckpt")
    path = tmp_path / "models" / "loras" / "mine.ckpt"
    assert added.returncode == 0, added.stderr
    assert f"{path}: 2.00 MB, fetched" in added.stdout
    assert path.stat().st_size == 2_000_000

    report = listed(models)
    (file,) = report["folders"]["loras"]["files"]
    assert (file["name"], file["bytes"], file["dangling"]) == ("mine.ckpt", 2_000_000, False)
    assert file["store"]["url"] == f"{url}?token=..."
    assert report["total"] == {"files": 1, "bytes": 2_000_000}
    shown = models("list").stdout
    assert "mine.ckpt" in shown
    assert "loras: 1 files, 2.00 MB" in shown

    again = models("add", f"{url}?token={CANARY}", "loras", "--filename", "mine.ckpt")
    assert "here already" in again.stdout
    said = [added.stdout, added.stderr, again.stdout, again.stderr, str(report), shown]
    assert not [text for text in said if CANARY in text]

    removed = models("remove", "mine.ckpt")
    assert removed.returncode == 0, removed.stderr
    assert removed.stdout.endswith("2.00 MB freed\n")
    assert not path.exists()
    assert listed(models)["total"]["files"] == 0


def test_a_file_is_removed_by_its_key(models, source):
    """As the list tells it."""
    url = source.put("/m.ckpt", b"weights", "application/octet-stream")
    models("add", url, "loras")
    (file,) = listed(models)["folders"]["loras"]["files"]
    assert models("remove", file["store"]["key"]).returncode == 0
    assert listed(models)["store"]["files"] == 0


def test_what_was_not_fetched_is_not_removed(models, tmp_path):
    """The operator's own files are the operator's."""
    own = tmp_path / "models" / "loras" / "own.ckpt"
    own.parent.mkdir()
    own.write_bytes(b"x")
    said = models("remove", "own.ckpt")
    assert said.returncode == 1
    assert "no file that was fetched is called so" in said.stderr
    assert own.exists()
    assert models("list", "loras").stdout.count("own.ckpt") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "{url}", "lora"), "it has loras"),
        (("add", "{url}", "loras", "--filename", "../x"), "no usable file name"),
        (("add", "{url}", "loras", "--sha256", "0" * 64), "SHA-256"),
        (("add", "{url}-missing", "loras"), "404"),
        (("list", "nowhere"), "no model folder"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(models, source, tmp_path, arguments, told):
    """And nothing appears."""
    url = source.put("/m.ckpt", b"weights", "application/octet-stream")
    said = models(*(text.format(url=url) for text in arguments))
    assert said.returncode == 1
    assert told in said.stderr
    assert said.stderr.startswith("comfyfn: ")
    assert not [path for path in (tmp_path / "models").rglob("*") if path.is_file()]


def test_sizes_are_told_as_people_do():
    """MB below one GB."""
    assert (size_text(1_500_000), size_text(2_130_000_000)) == ("1.50 MB", "2.13 GB")
