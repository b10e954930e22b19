"""What the operator set, as the sources get it."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.credentials import auth_for
from handler.settings import Settings, SettingsError
from handler.transfer.operator import operator_sources, source_settings

CANARY = "canary4711"


def made(**environ):
    return source_settings(Settings.from_env(environ))


def headers(settings, url):
    auth = auth_for(settings.defaults, url)
    return {} if auth is None else auth.headers()


def test_nothing_set_sends_nothing():
    """No credentials, Amazon's endpoint, Hugging Face's own hub."""
    settings = made()
    assert settings.defaults == ()
    assert (settings.s3_region, settings.s3_endpoint, settings.hf_token) == (None, None, None)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://civitai.com/api/download/models/1?type=Model", True),
        ("https://www.civitai.com/api/download/models/1", True),
        ("http://civitai.com/api/download/models/1", False),
        ("https://civitai.com.evil.example/x", False),
        ("https://evil.example/?.civitai.com/x", False),
    ],
)
def test_civitais_token_goes_to_civitai_alone(url, sent):
    """Whatever else stands in the URL, and over TLS only."""
    expected = {"Authorization": f"Bearer {CANARY}"} if sent else {}
    assert headers(made(CIVITAI_API_TOKEN=CANARY), url) == expected


def test_the_header_goes_to_every_other_host():
    """As comfyui-api has it; a provider's own token comes first."""
    settings = made(
        CIVITAI_API_TOKEN="t", HTTP_AUTH_HEADER_NAME="X-Key", HTTP_AUTH_HEADER_VALUE=CANARY
    )
    assert headers(settings, "http://models.corp/x") == {"X-Key": CANARY}
    assert headers(settings, "https://civitai.com/x") == {"Authorization": "Bearer t"}


@pytest.mark.parametrize(
    ("name", "value", "blamed"),
    [("Host", "x", "HTTP_AUTH_HEADER_NAME"), ("X-Key", "a\nb", "HTTP_AUTH_HEADER_VALUE")],
)
def test_a_header_that_cannot_be_sent_is_a_fault_of_the_settings(name, value, blamed):
    """Before anything is asked for, and without the value."""
    environ = {"HTTP_AUTH_HEADER_NAME": name, "HTTP_AUTH_HEADER_VALUE": value}
    with pytest.raises(SettingsError, match=blamed) as caught:
        made(**environ)
    assert "a\nb" not in str(caught.value)


def test_the_providers_get_theirs(tmp_path):
    """Each variable ends up where its library looks."""
    settings = made(
        HF_TOKEN="h",
        HF_ENDPOINT="https://hub.corp/",
        AWS_DEFAULT_REGION="eu-west-1",
        AWS_ENDPOINT_URL="http://store:9000",
        AZURE_STORAGE_ACCOUNT="account",
        AZURE_STORAGE_KEY="key",
        GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "key.json"),
    )
    assert (settings.hf_token, settings.hf_endpoint) == ("h", "https://hub.corp")
    assert (settings.s3_region, settings.s3_endpoint) == ("eu-west-1", "http://store:9000")
    assert (settings.azure.account, settings.azure.key) == ("account", "key")
    assert settings.google_key_file == tmp_path / "key.json"
    assert settings.local_roots == (Path("/"),)
    assert made(AWS_REGION="a", AWS_DEFAULT_REGION="b").s3_region == "a"


def test_no_text_has_a_secret_in_it():
    """Neither of the settings, nor of what is made of them."""
    names = ("HF_TOKEN", "CIVITAI_API_TOKEN", "HTTP_AUTH_HEADER_VALUE", "AZURE_STORAGE_KEY")
    names += ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN")
    settings = Settings.from_env({**dict.fromkeys(names, CANARY), "HTTP_AUTH_HEADER_NAME": "X-Key"})
    assert CANARY not in repr(settings) + repr(source_settings(settings))


async def test_the_operators_urls_may_lead_anywhere(host, make, threads, tmp_path):
    """A private address, and a file of this machine."""
    from handler.transfer.records import Wanted

    sources = operator_sources(Settings(), threads)
    mine = tmp_path / "mine.bin"
    mine.write_bytes(b"weights")
    for url in (host.put("/a.bin", b"weights"), mine.as_uri()):
        downloader = make(source=sources(url))
        got = await downloader.download(Wanted(url, tmp_path / "got.bin"))
        assert got.path.read_bytes() == b"weights"
