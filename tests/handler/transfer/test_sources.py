"""Which source a URL is for, and what loads for it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from handler.errors import InputFailed
from handler.inputs.address import AddressPolicy
from handler.metrics import Metrics
from handler.settings import Settings
from handler.transfer.download import Downloader
from handler.transfer.operator import media_sources, operator_sources
from handler.transfer.sources import Sources, SourceSettings


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://example.com/m.bin", "HttpSource"),
        ("https://civitai.com/api/download/models/1", "CivitaiSource"),
        ("https://civitai.com/images/1", "HttpSource"),
        ("https://evil.test/api/download/models/1", "HttpSource"),
        ("https://huggingface.co/a/b/resolve/main/m", "HfSource"),
        ("https://huggingface.co/datasets/a/b/blob/main/m", "HfSource"),
        ("https://huggingface.co/front/logo.svg", "HttpSource"),
        ("https://mirror.test:8000/a/b/resolve/main/m", "HfSource"),
        ("https://mirror.test/a/b/resolve/main/m", "HttpSource"),
        ("https://me.blob.core.windows.net/c/b", "AzureSource"),
        ("https://blob.core.windows.net.evil.test/c/b", "HttpSource"),
        ("http://127.0.0.1:10000/devstoreaccount1/c/b", "AzureSource"),
        ("http://azurite:10000/devstoreaccount1/c/b", "AzureSource"),
        ("s3://bucket/key", "S3Source"),
        ("gs://bucket/key", "GcsSource"),
        ("file:///mnt/m", "LocalSource"),
        ("/mnt/m", "LocalSource"),
    ],
)
def test_each_url_has_its_source(threads, url, kind):
    """By scheme and host; made once."""
    settings = SourceSettings(hf_endpoint="https://mirror.test:8000")
    sources = Sources(settings, AddressPolicy(), threads)

    assert type(sources(url)).__name__ == kind
    assert sources(url) is sources(url)


def test_bytes_are_counted_by_the_kind_of_their_source(threads):
    """Not by host: that may be anybody's."""
    metrics = Metrics()
    count = Sources(SourceSettings(), AddressPolicy(), threads).counting(metrics)
    for url in ("https://a.test/m", "https://b.test/m", "s3://bucket/key", "/mnt/m"):
        count(url, 5)

    assert metrics.bytes_in.values == {("http",): 10, ("s3",): 5, ("file",): 5}


@pytest.mark.parametrize("url", ["ftp://a/b", "m.bin", "", "http://[", "javascript:alert(1)"])
def test_other_urls_have_none(threads, url):
    """It is a fault of the caller."""
    with pytest.raises(InputFailed) as caught:
        Sources(SourceSettings(), AddressPolicy(), threads)(url)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/owner/name",
        "https://hf.co/owner/name/tree/main",
        "https://huggingface.co/datasets/owner/name?x=1",
        "https://mirror.test:8000/owner/name",
    ],
)
@pytest.mark.parametrize("over_http", [True, False])
def test_a_page_of_a_repository_is_refused_with_the_link_to_take(threads, url, over_http):
    """By the library or without: what would come is a web page."""
    settings = SourceSettings(hf_endpoint="https://mirror.test:8000", hf_over_http=over_http)
    with pytest.raises(InputFailed, match="is a page of Hugging Face, not a file") as caught:
        Sources(settings, AddressPolicy(), threads)(url)
    assert caught.value.status == 400
    assert "/resolve/main/<file>" in caught.value.hint


def test_no_providers_library_loads_before_its_first_use():
    """They take seconds on a cold start."""
    code = """
import sys
from handler.inputs.address import AddressPolicy
from handler.transfer.download import Downloader
from handler.transfer.sources import Sources, SourceSettings
from handler.transfer.threads import Threads
sources = Sources(SourceSettings(), AddressPolicy(), Threads())
for url in ("https://a.test/m", "s3://bucket/m", "gs://bucket/m", "/mnt/m",
            "https://huggingface.co/a/b/resolve/main/m", "https://a.blob.core.windows.net/c/b"):
    sources(url)
print(sorted(set(sys.modules) & {"boto3", "botocore", "azure.storage.blob", "huggingface_hub",
                                 "google.auth", "requests"}))
"""
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.strip() == "[]"


def test_settings_show_no_secret():
    """Tokens are in no text."""
    assert "canary" not in repr(SourceSettings(hf_token="canary"))


def test_what_is_not_installed_is_told_with_the_extra_to_install(tmp_path):
    """By the image's fault, not by a stack trace; links of the hub do without."""
    code = """
import asyncio, sys
for name in ("boto3", "botocore", "azure", "huggingface_hub", "google"):
    sys.modules[name] = None
from handler.errors import InputFailed
from handler.inputs.address import AddressPolicy
from handler.transfer.azure_source import AzureAccount
from handler.transfer.sources import Sources, SourceSettings
from handler.transfer.threads import Threads
from dataclasses import replace
from pathlib import Path
settings = SourceSettings(s3_region="us-east-1", azure=AzureAccount(account="me", key="a2V5"),
                          google_key_file=Path("key.json"))
sources = Sources(settings, AddressPolicy(), Threads())
async def main():
    for url in ("s3://bucket/m", "gs://bucket/m", "https://me.blob.core.windows.net/c/b"):
        try:
            await sources(url).stat(url, None)
        except InputFailed as fault:
            print(fault.status, fault.blame, fault.hint)
    print(type(sources("https://huggingface.co/a/b/resolve/main/m")).__name__)
asyncio.run(main())
"""
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )

    assert told.stdout.splitlines() == [
        "400 image pip install 'comfyfn[s3]'",
        "400 image pip install 'comfyfn[gcs]'",
        "400 image pip install 'comfyfn[azure]'",
        "HubHttpSource",
    ]


def test_renewed_sources_are_others_with_the_settings_of_now(threads):
    """Whoever fetches from one of before goes on with it."""
    settings = Settings(hf_token="old")
    sources = operator_sources(settings, threads)
    made = {url: sources(url) for url in ("https://e.org/m", "s3://bucket/key")}
    sources.renew()
    assert all(sources(url) is not source for url, source in made.items())
    assert sources._settings.hf_token == "old"

    sources.renew(replace(settings, hf_token="new"))
    assert sources._settings.hf_token == "new"
    assert media_sources(settings, threads)._anew(settings).hf_over_http is True


def test_a_downloader_renews_its_sources(threads):
    """One with a source of another kind has nothing to renew."""
    sources = Sources(SourceSettings(), AddressPolicy("*"), threads)
    before = sources("https://e.org/m")
    Downloader(sources, threads=threads).renew(Settings())
    assert sources("https://e.org/m") is not before
    Downloader(lambda _url: before, threads=threads).renew()
