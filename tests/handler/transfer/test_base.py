"""The port: what each source is, and what no text shows."""

from __future__ import annotations

from handler.errors import InputFailed
from handler.inputs.address import AddressPolicy
from handler.settings import Settings
from handler.transfer.base import AccessDenied, DiskFull, FileSource, RangeSource, Remote
from handler.transfer.operator import operator_settings
from handler.transfer.sources import Sources


def test_every_source_is_of_one_of_the_two_kinds(threads):
    """In parts, or whole; never both, since the downloader asks which."""
    sources = Sources(operator_settings(Settings()), AddressPolicy(), threads)
    parts = ("https://e.org/m", "s3://b/k", "gs://b/k", "https://a.blob.core.windows.net/c/b")
    whole = ("https://huggingface.co/o/n/resolve/main/m.bin", "file:///m")
    for url in parts + whole:
        source = sources(url)
        assert isinstance(source, RangeSource) is (url in parts)
        assert isinstance(source, FileSource) is (url in whole)


def test_a_remote_shows_no_url():
    """It may hold a signature."""
    remote = Remote("https://e.org/m?sig=canary4711", 1, None, ranges=True, handle="canary4711")
    assert "canary4711" not in repr(remote)


def test_faults_of_the_port_are_of_our_tree():
    """With codes that programs match."""
    assert (AccessDenied.code, issubclass(AccessDenied, InputFailed)) == ("access_denied", True)
    assert (DiskFull.code, DiskFull.status) == ("disk_full", 507)
