"""Packs in custom_nodes: brought, kept, moved, and never destroyed."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from handler.manifest.faults import InstallFailed
from handler.manifest.git_refs import parse
from handler.manifest.nodes import NodeFolder, run_install_script
from handler.manifest.records import NodePack, RegistryName
from handler.manifest.registry import read_mark

ENV = {"PATH": os.environ["PATH"]}
HUB = "https://github.com/o/pack"


def pack(address, **options):
    source = parse(address)
    return NodePack(name=options.pop("name", source.name), source=source, **options)


@pytest.fixture
def folder(tmp_path, git, registry):
    return NodeFolder(tmp_path / "custom_nodes", git, registry)


@pytest.fixture
def made(repository):
    """A repository with tags, a branch with slashes, and three commits, its attributes."""
    made = repository("github.com/o/pack")
    made.first = made.commit({"code.py": "1"})
    made.git("tag", "v1")
    made.git("tag", "--annotate", "v1a", "--message", "x")
    made.second = made.commit({"code.py": "2"})
    made.git("checkout", "--quiet", "-b", "feature/deep/x")
    made.third = made.commit({"code.py": "3", "nodes/file.py": ""})
    made.git("checkout", "--quiet", "main")
    return made


@pytest.mark.parametrize(
    ("ref", "which"),
    [
        ("", "second"),
        ("@main", "second"),
        ("@v1", "first"),
        ("@v1a", "first"),
        ("@feature/deep/x", "third"),
        ("/tree/main", "second"),
        ("/tree/v1", "first"),
        ("/tree/feature/deep/x", "third"),
        ("/tree/feature/deep/x/nodes", "third"),
        ("/releases/tag/v1a", "first"),
        ("/commit/FIRST", "first"),
        ("/commits/THIRD", "third"),
        ("@FIRST", "first"),
        ("/-/tree/feature/deep/x", "third"),
        ("/-/commit/FIRST", "first"),
        ("/-/tags/v1", "first"),
        ("/src/feature/deep/x/nodes/file.py", "third"),
        ("/src/main/", "second"),
    ],
)
async def test_every_form_brings_its_commit(made, folder, git_env, ref, which):
    """Whatever is pasted from a browser, the commit that it shows is installed."""
    host = "https://github.com/o/pack"
    if ref.startswith("/src"):
        other = Path(made.folder).parents[2] / "bitbucket.org" / "o"
        other.mkdir(parents=True)
        (other / "pack").symlink_to(made.folder)
        host = "https://bitbucket.org/o/pack"
    text = host + ref.replace("FIRST", made.first).replace("THIRD", made.third)
    placed = await folder.place(pack(text))

    assert placed.commit == getattr(made, which)
    assert (placed.folder.name, placed.fresh) == ("pack", True)
    assert sorted(os.listdir(folder.root)) == ["pack"]


async def test_subgroups_of_gitlab_are_found(repository, folder):
    """The repository is what comes before `/-/`."""
    commit = repository("gitlab.com/a/b/c/pack").commit({"x": "1"})
    placed = await folder.place(pack("https://gitlab.com/a/b/c/pack/-/tree/main"))

    assert placed.commit == commit


@pytest.mark.parametrize("ref", ["@FIRST", "@v1"])
async def test_what_is_pinned_and_there_needs_no_network(made, folder, ref):
    """With the repository gone, an installed commit or tag is still fine, in milliseconds."""
    wanted = pack(HUB + ref.replace("FIRST", made.first))
    await folder.place(wanted)
    made.folder.rename(made.folder.with_name("gone"))
    begun = time.monotonic()
    placed = await folder.place(wanted)

    assert placed.commit == made.first
    assert time.monotonic() - begun < 5


async def test_a_branch_is_followed_and_the_old_copy_kept_when_it_cannot_be(made, folder):
    """Like `git pull`: new commits come, a repository out of reach is a warning."""
    await folder.place(pack(f"{HUB}@main"))
    newer = made.commit({"code.py": "4"})
    assert (await folder.place(pack(f"{HUB}@main"))).commit == newer

    made.folder.rename(made.folder.with_name("gone"))
    assert (await folder.place(pack(f"{HUB}@main"))).commit == newer


async def test_a_pin_moves_an_existing_clone(made, folder):
    """Another commit in the manifest is another commit on disk, and its script runs again."""
    placed = await folder.place(pack(HUB))
    await run_install_script(placed, Path(sys.executable), ENV)
    moved = await folder.place(pack(f"{HUB}@{made.first}"))

    assert (moved.commit, moved.fresh) == (made.first, True)
    assert (moved.folder / "code.py").read_text() == "1"


async def test_changes_of_somebody_are_never_lost(made, folder):
    """A pin that would overwrite them is an error; a branch stays where it is."""
    placed = await folder.place(pack(HUB))
    (placed.folder / "code.py").write_text("mine")
    with pytest.raises(InstallFailed, match=r"pack pack: .* has changes of its own \(code.py\)"):
        await folder.place(pack(f"{HUB}@{made.first}"))
    made.commit({"code.py": "5"})

    assert (await folder.place(pack(HUB))).commit == made.second
    assert (placed.folder / "code.py").read_text() == "mine"


async def test_a_foreign_folder_is_an_error_or_set_aside(made, repository, folder):
    """What we did not bring is not touched, unless `replace` says that it may be moved."""
    mine = folder.root / "pack"
    mine.mkdir(parents=True)
    (mine / "work.py").write_text("mine")
    with pytest.raises(InstallFailed, match="no clone") as caught:
        await folder.place(pack(HUB))
    assert "replace: true" in caught.value.hint

    assert (await folder.place(pack(HUB, replace=True))).commit == made.second
    assert (folder.root / "pack.1.disabled" / "work.py").read_text() == "mine"

    repository("github.com/other/pack").commit({"x": "1"})
    with pytest.raises(InstallFailed, match=r"is a clone of https://github\.com/o/pack"):
        await folder.place(pack("https://github.com/other/pack"))


async def test_an_empty_folder_is_no_obstacle(made, folder):
    """A mount point or a leftover without files is used."""
    (folder.root / "pack").mkdir(parents=True)
    assert (await folder.place(pack(HUB))).commit == made.second


async def test_a_failure_names_the_pack_and_leaves_nothing(made, folder):
    """A ref that is not there, a repository that is not there: named, and custom_nodes clean."""
    with pytest.raises(
        InstallFailed, match=r"node pack pack: .* has no tag, branch or commit 'no'"
    ):
        await folder.place(pack(f"{HUB}@no"))
    with pytest.raises(InstallFailed, match="node pack missing: ") as caught:
        await folder.place(pack("https://github.com/o/missing", line=7))
    assert caught.value.details == {"pack": "missing", "line": 7}
    assert os.listdir(folder.root) == []


async def test_cancelling_a_clone_leaves_nothing(made, folder):
    """No half pack is ever seen by ComfyUI."""
    task = asyncio.create_task(folder.place(pack(HUB)))
    while not (folder.root.is_dir() and os.listdir(folder.root)) and not task.done():
        await asyncio.sleep(0.001)
    assert all(name.endswith(".disabled") for name in os.listdir(folder.root))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(folder.root) == []


async def test_leftovers_of_a_killed_run_are_swept(made, folder):
    """Those that are old; a young one may be another machine's."""
    old = folder.root / ".pack.abc.comfyfn-partial.disabled"
    young = folder.root / ".pack.def.comfyfn-partial.disabled"
    for left in (old, young):
        left.mkdir(parents=True)
    os.utime(old, (1, 1))
    await folder.place(pack(HUB))

    assert sorted(os.listdir(folder.root)) == [young.name, "pack"]


async def test_install_script_runs_once_with_the_given_interpreter(repository, folder):
    """It runs in its folder after the pack came, and again only after a failure."""
    script = (
        "import sys, pathlib, os\n"
        "p = pathlib.Path('ran'); p.write_text(p.read_text() + 'x' if p.exists() else 'x')\n"
        "sys.exit(int(os.environ['STATUS']))\n"
    )
    repository("github.com/o/pack").commit({"install.py": script})
    placed = await folder.place(pack(HUB))
    with pytest.raises(InstallFailed, match=r"node pack pack: install.py of pack failed"):
        await run_install_script(placed, Path(sys.executable), {**ENV, "STATUS": "1"})

    again = await folder.place(pack(HUB))
    assert again.fresh
    assert await run_install_script(again, Path(sys.executable), {**ENV, "STATUS": "0"})
    settled = await folder.place(pack(HUB))
    assert not await run_install_script(settled, Path(sys.executable), {**ENV, "STATUS": "1"})
    assert (placed.folder / "ran").read_text() == "xx"


async def test_packs_of_the_registry_are_unpacked_and_kept(folder, registry):
    """By name or by name and version; what is there is not asked for again."""
    registry.shelf = {
        ("nice", "1.0.0"): {"__init__.py": "one", "js/a.js": ""},
        ("nice", "1.1.0"): {"__init__.py": "two"},
    }
    newest = NodePack(name="nice", source=RegistryName("nice"))
    placed = await folder.place(newest)
    assert (placed.version, placed.fresh) == ("1.1.0", True)
    await folder.place(newest)
    assert registry.asked == [("nice", None)]

    older = NodePack(name="nice", source=RegistryName("nice", "1.0.0"))
    assert (await folder.place(older)).version == "1.0.0"
    assert (folder.root / "nice" / "__init__.py").read_text() == "one"
    assert read_mark(folder.root / "nice").version == "1.0.0"


async def test_packs_that_the_manager_brought_are_recognised(folder, registry):
    """A pack with its `.tracking` file is the registry's own."""
    there = folder.root / "nice"
    there.mkdir(parents=True)
    (there / ".tracking").touch()
    (there / "pyproject.toml").write_text('[project]\nname = "Nice"\nversion = "1.2"\n')

    placed = await folder.place(NodePack(name="nice", source=RegistryName("nice", "1.2")))
    assert (placed.version, placed.fresh, registry.asked) == ("1.2", False, [])


async def test_an_archive_cannot_get_out_of_its_folder(folder, registry):
    """A path that climbs is refused, and nothing of the archive stays."""
    registry.shelf = {("evil", "1"): {"fine.py": "", "../../escaped.py": "x"}}
    with pytest.raises(InstallFailed, match=r"node pack evil: .*leads out"):
        await folder.place(NodePack(name="evil", source=RegistryName("evil")))
    assert os.listdir(folder.root) == []
    assert not (folder.root.parent / "escaped.py").exists()


async def test_nightly_is_what_the_repository_has_now(folder, made, registry):
    """Of the address that the registry tells; where it tells none, the copy's own is taken."""
    nightly = NodePack(name="pack", source=RegistryName("pack", "nightly"))
    registry.repositories["pack"] = HUB
    assert (await folder.place(nightly)).commit == made.second
    fourth = made.commit({"code.py": "4"})
    registry.repositories.clear()
    assert (await folder.place(nightly)).commit == fourth

    with pytest.raises(InstallFailed, match="no pack 'other'"):
        await folder.place(NodePack(name="other", source=RegistryName("other", "nightly")))
    registry.repositories["other"] = "-x"
    with pytest.raises(InstallFailed, match="repository in the registry is no address"):
        await folder.place(NodePack(name="other", source=RegistryName("other", "nightly")))
