"""The hardware table that the README of the ready-made manifests holds."""

from __future__ import annotations

import pytest

from handler.errors import BootFailed
from handler.manifest.table import BEGIN, END, refresh_readme, requires_table

SMALL = """
models:
  before_start:
    - {url: "https://h.example/a", folder: vae, size: 1500000000}
requires:
  {vram_gb: 8, ram_gb: 12, gpu: RTX 3060 Ti, typical_s: [2, 5], pattern: gateway, image: runtime}
"""
FILM = """
models:
  before_start:
    - {url: "https://h.example/b", folder: vae, size: 2000000000}
  after_start:
    - {url: "https://h.example/c", folder: vae}
requires: {vram_gb: 4, ram_gb: 1.5, typical_s: [60, 300], pattern: queue}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "film.yaml").write_text(FILM)
    (tmp_path / "bare.yaml").write_text("pip: [einops]\n")
    (tmp_path / "small.warmup.json").write_text("{}")
    return tmp_path


def test_a_row_a_manifest_images_first(folder):
    """Videos come last however little they need; what is not said is a dash."""
    rows = requires_table(folder).splitlines()

    assert rows[0].startswith("| Manifest | Least VRAM |")
    assert [row.split("](")[0] for row in rows[2:]] == ["| [bare", "| [small", "| [film"]
    assert rows[2] == "| [bare](bare.yaml) | - | - | - | - | - | - | - |"
    assert rows[3] == (
        "| [small](small.yaml) | 8 GB | RTX 3060 Ti | 12 GB | 2-5 s | gateway | runtime | 1.5 GB |"
    )


def test_minutes_and_unknown_sizes(folder):
    """A minute and more is told in minutes, a sum that lacks a file as "over"."""
    last = requires_table(folder).splitlines()[-1]

    assert "| 1.5 GB | 1-5 min | queue | - | over 2.0 GB |" in last


@pytest.mark.parametrize("text", ["models: [", "- a\n- b\n", "", b"\xff\xfe\xfa"])
def test_a_manifest_that_is_none(tmp_path, text):
    """The file is named in the error."""
    (tmp_path / "odd.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(BootFailed, match=r"odd\.yaml") as caught:
        requires_table(tmp_path)
    assert caught.value.blame == "image"


def test_the_readme_is_renewed_between_the_marks(folder):
    """Nothing else of it changes, and a second time nothing at all."""
    readme = folder / "README.md"
    readme.write_text(f"# Above\n\n{BEGIN}\nold\n{END}\n\nBelow\n")

    assert refresh_readme(folder)
    assert readme.read_text() == f"# Above\n\n{BEGIN}\n{requires_table(folder)}{END}\n\nBelow\n"
    assert not refresh_readme(folder)


@pytest.mark.parametrize("text", ["# No marks\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", None])
def test_a_readme_without_a_place_for_it(folder, text):
    """It is left as it is, whether a mark lacks or the file."""
    readme = folder / "README.md"
    if text is not None:
        readme.write_text(text)

    with pytest.raises(BootFailed, match=r"README\.md"):
        refresh_readme(folder)
    assert text is None or readme.read_text() == text
