"""ComfyUI itself, in the version that the manifest names."""

from __future__ import annotations

import shutil

import pytest

from handler.manifest.comfyui import version_of
from handler.manifest.faults import InstallFailed


async def test_comfyui_is_brought_to_its_version_or_cloned(site):
    """An existing one of that version costs nothing; where there is none it is cloned."""
    _, start = await site.install("comfyui: 0.3.64\n")
    assert start.timeline.records[0].note == "is 0.3.64"

    site.again()
    _, start = await site.install("comfyui: v0.3.64\ncustom_nodes: [https://github.com/o/alpha]\n")
    assert start.timeline.records[0].note == "now 0.3.64"
    assert (site.home / "custom_nodes" / "alpha").is_dir()


async def test_another_comfyui_that_cannot_be_moved_is_told(site):
    """A copy without history stays what it is."""
    shutil.rmtree(site.home / ".git")
    with pytest.raises(InstallFailed, match=r"is 0.3.64, the manifest wants 0.3.60"):
        await site.install("comfyui: 0.3.60\n")


@pytest.mark.parametrize(
    ("text", "version"),
    [("__version__ = '1.2.3'\n", "1.2.3"), ("nothing\n", None), (None, None)],
)
def test_the_version_is_read_from_comfyuis_own_file(tmp_path, text, version):
    """Without importing it; None where it does not say."""
    if text is not None:
        (tmp_path / "comfyui_version.py").write_text(text)
    assert version_of(tmp_path) == version
