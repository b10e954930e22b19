"""Debian packages of this very machine."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from handler.manifest.apt import Apt, missing, read_versions
from handler.manifest.faults import InstallFailed

ENV = {"PATH": os.environ["PATH"]}
debian = pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no Debian")


def test_the_table_is_read_with_architectures_and_what_is_provided():
    """Packages that are removed or half there do not count."""
    found = read_versions(
        "ii \tlibc6\tamd64\t2.36-9\t\n"
        "rc \tgone\tamd64\t1\t\n"
        "ii \tmawk\tamd64\t1.3\tawk, posix-awk (= 1)\n"
    )
    assert found == {
        "libc6": "2.36-9",
        "libc6:amd64": "2.36-9",
        "mawk": "1.3",
        "mawk:amd64": "1.3",
        "awk": "provided",
        "posix-awk": "provided",
    }


def test_only_what_lacks_is_missing():
    """By name, by architecture, by exact version."""
    there = {"a": "1", "a:amd64": "1", "b": "2"}
    wanted = ["a", "a:amd64", "a:i386", "a=1", "b=3", "c", "b/stable"]
    assert missing(wanted, there) == ("a:i386", "b=3", "c")


@debian
async def test_what_is_installed_costs_milliseconds():
    """apt-get is not even asked."""
    begun = time.monotonic()
    assert await Apt(ENV).install(["dpkg", "base-files"]) == ()
    assert time.monotonic() - begun < 8


async def test_a_machine_without_dpkg_says_so(tmp_path):
    """A manifest for Debian on something else is told."""
    with pytest.raises(InstallFailed, match="no dpkg"):
        await Apt({"PATH": str(tmp_path)}).install(["ffmpeg"])


@debian
@pytest.mark.skipif(os.geteuid() == 0, reason="root may install")
async def test_installing_needs_root():
    """Who may not install is told which packages are missing."""
    with pytest.raises(InstallFailed, match="only root"):
        await Apt(ENV).install(["no-such-package-at-all"])


@pytest.mark.apt
@pytest.mark.skipif(
    os.geteuid() != 0 or not os.environ.get("COMFYFN_TEST_APT"),
    reason="installs a package: needs root and COMFYFN_TEST_APT=1",
)
async def test_a_missing_package_is_installed():
    """apt-get for real, with the network."""
    assert await Apt(ENV).install(["hello"]) in ((), ("hello",))
    assert "hello" in await Apt(ENV).versions()
