"""What the operator set, as the sources get it."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.credentials import BearerAuth, auth_for
from handler.errors import InputFailed, UrlNotAllowed
from handler.settings import Settings, SettingsError
from handler.transfer.base import AccessDenied
from handler.transfer.operator import (
    caller_settings,
    caller_sources,
    media_limits,
    media_sources,
    operator_settings,
    operator_sources,
)
from handler.transfer.records import Wanted

CANARY = "canary4711"


def made(**environ):
    return operator_settings(Settings.from_env(environ))


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
    assert CANARY not in repr(settings) + repr(caller_settings(settings))


async def test_the_operators_urls_may_lead_anywhere(host, make, threads, tmp_path):
    """A private address, and a file of this machine."""
    sources = operator_sources(Settings(), threads)
    mine = tmp_path / "mine.bin"
    mine.write_bytes(b"weights")
    for url in (host.put("/a.bin", b"weights"), mine.as_uri()):
        downloader = make(source=sources(url))
        got = await downloader.download(Wanted(url, tmp_path / "got.bin"))
        assert got.path.read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://files.corp/a/b.png?x=1", True),
        ("http://models.corp:8080/a", True),
        ("http://files.corp/a", False),
        ("https://files.corp:8443/a", False),
        ("https://files.corp.evil.example/a", False),
        ("https://evil.example/https://files.corp/a", False),
        ("https://files.corp@evil.example/a", False),
    ],
)
def test_callers_have_the_header_sent_to_the_allowed_origins_alone(url, sent):
    """A caller may name any host, and none of their own is to learn it."""
    environ = {
        "HTTP_AUTH_HEADER_NAME": "X-Key",
        "HTTP_AUTH_HEADER_VALUE": CANARY,
        "HTTP_AUTH_ALLOWED_ORIGINS": "https://Files.corp:443/, http://models.corp:8080",
    }
    settings = caller_settings(Settings.from_env(environ))
    assert headers(settings, url) == ({"X-Key": CANARY} if sent else {})


async def test_the_header_reaches_an_allowed_origin_and_not_the_next(host, make, threads, tmp_path):
    """Over the wire; a redirect elsewhere goes without it."""
    host.put("/a.bin", b"x")
    host.redirects["/moved"] = host.url("/a.bin", "localhost")
    environ = {
        "HTTP_AUTH_HEADER_NAME": "X-Key",
        "HTTP_AUTH_HEADER_VALUE": CANARY,
        "HTTP_AUTH_ALLOWED_ORIGINS": host.url(""),
        "URL_ALLOW_HOSTS": "127.0.0.1,localhost",
    }
    sources = caller_sources(Settings.from_env(environ), threads)
    for path in ("/a.bin", "/moved"):
        url = host.url(path)
        await make(source=sources(url)).download(Wanted(url, tmp_path / "f", kind="file"))
    url = host.url("/a.bin", "localhost")
    await make(source=sources(url)).download(Wanted(url, tmp_path / "f", kind="file"))

    heard = [request.headers.get("x-key") for request in host.requests]
    assert heard == [CANARY, CANARY, None, None]


async def test_callers_urls_are_held_to_the_policy(host, make, threads, tmp_path):
    """Where it is not opened nothing is dialled; a name that rebinds gains nothing."""
    url = host.put("/a.bin", b"x")
    answers = [["127.0.0.1"], ["169.254.169.254"]]

    async def rebinding(_name, _port):
        return answers.pop(0)

    shut = caller_sources(Settings(), threads)
    with pytest.raises(UrlNotAllowed):
        await make(source=shut(url)).download(Wanted(url, tmp_path / "f"))
    assert host.connections == 0
    host.redirects["/moved"] = "/a.bin"
    sources = caller_sources(Settings(url_allow_hosts="127.0.0.1"), threads, rebinding)
    named = host.url("/moved", "files.test")
    with pytest.raises(UrlNotAllowed):
        await make(source=sources(named)).download(Wanted(named, tmp_path / "f"))
    assert host.connections == 1


async def test_callers_may_name_files_below_allow_paths_alone(make, threads, tmp_path):
    """Links are followed before it is decided."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "a.bin").write_bytes(b"weights")
    (tmp_path / "secret").write_bytes(b"secret")
    (shared / "link").symlink_to(tmp_path / "secret")
    none = caller_sources(Settings(), threads)
    sources = caller_sources(Settings(allow_paths=(shared,)), threads)
    good = (shared / "a.bin").as_uri()
    got = await make(source=sources(good)).download(Wanted(good, tmp_path / "got"))
    assert got.path.read_bytes() == b"weights"
    for pick, path in [
        (none, shared / "a.bin"), (sources, tmp_path / "secret"), (sources, shared / "link"),
        (sources, shared / ".." / "secret"),
    ]:  # fmt: skip
        with pytest.raises(InputFailed) as caught:
            await make(source=pick(str(path))).download(Wanted(str(path), tmp_path / "no"))
        assert "ALLOW_PATHS" in caught.value.hint


async def test_media_are_callers_and_come_past_the_hubs_library(host, make, threads, tmp_path):
    """Links of the hub are fetched as any other; the policy and the limits are those of media."""
    settings = Settings(fetch_timeout_s=7.0, max_input_mb=3, download_timeout_s=9.0)
    sources = media_sources(settings, threads)
    url = host.put("/a.png", b"x")
    with pytest.raises(UrlNotAllowed):
        await make(source=sources(url)).download(Wanted(url, tmp_path / "f", kind="file"))
    assert type(sources("https://huggingface.co/a/b/resolve/main/m")).__name__ == "HubHttpSource"
    assert (media_limits(settings).total_s, media_limits(settings).max_bytes) == (7.0, 3 << 20)


@pytest.mark.parametrize("origins", ["", " ", "https://models.corp"])
def test_a_header_that_callers_urls_do_not_get_is_told_at_the_start(threads, caplog, origins):
    """Once, where none of them gets it; comfyui-api sent it to all."""
    set_ = {"http_auth_name": "X-Key", "http_auth_value": CANARY, "http_auth_origins": origins}
    for make_sources in (operator_sources, media_sources, caller_sources):
        make_sources(Settings(**set_), threads)

    told = [record.message for record in caplog.records]
    assert len(told) == (0 if origins.strip() else 1)
    assert all("HTTP_AUTH_ALLOWED_ORIGINS" in line and CANARY not in line for line in told)


async def test_who_is_refused_without_the_header_is_told_its_setting(host, threads):
    """A caller's URL that did not get it; not one with other credentials, nor the operator's."""
    set_ = {"http_auth_name": "X-Key", "http_auth_value": CANARY, "url_allow_hosts": "127.0.0.1"}
    url = host.put("/m", b"x", wants={"x-key": "another"})
    callers = caller_sources(Settings(**set_), threads)
    operators = operator_sources(Settings(**set_), threads)

    for sources, auth, told in (
        (callers, None, True),
        (callers, BearerAuth(token="t"), False),
        (operators, None, False),
        (caller_sources(Settings(url_allow_hosts="127.0.0.1"), threads), None, False),
    ):
        with pytest.raises(AccessDenied) as caught:
            await sources(url).stat(url, auth)
        assert ("HTTP_AUTH_ALLOWED_ORIGINS" in caught.value.hint) is told
        assert CANARY not in str(caught.value.envelope())


def test_a_proxy_is_told_not_to_be_used(threads, caplog):
    """Once, and without its password."""
    settings = Settings.from_env({"HTTP_PROXY": f"http://me:{CANARY}@proxy.corp:3128"})
    for make_sources in (operator_sources, media_sources, caller_sources):
        make_sources(settings, threads)

    (record,) = caplog.records
    assert "do not go through the proxy proxy.corp:3128" in record.message
