"""Blobs of Azure, from the emulator where it is installed, else from a host that looks like it."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from sources.host import safetensors
from sources.stores import ACCOUNT, blob_store
from sources.stores import ACCOUNT_KEY as KEY

from handler.credentials import BasicAuth, BearerAuth, QueryAuth, S3Auth
from handler.errors import InputFailed, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.transfer.azure_source import AzureAccount, AzureSource
from handler.transfer.base import AccessDenied
from handler.transfer.http_source import HttpSource
from handler.transfer.records import Wanted

BODY = safetensors(6 << 20)
SECRET = "canary4711"
BLOB = "a b/m.safetensors"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    """Give the account's URL and a SAS token for its container."""
    with blob_store(tmp_path_factory.mktemp("azurite")) as store:
        store.put("models", BLOB, BODY)
        yield store.url, store.token("models")


def fetcher(make, threads, target, account=None, allow="127.0.0.1"):
    checked = HttpSource(AddressPolicy(allow), threads)
    free = HttpSource(AddressPolicy("*"), threads)
    downloader = make(source=AzureSource(checked, free, threads, account))

    async def fetch(url, auth=None):
        got = await downloader.download(Wanted(url, target, auth=auth))
        await downloader.stat(url, auth)
        return got

    return fetch


def forms(url, token):
    """Give the operator's account in three of its forms."""
    start = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};BlobEndpoint={url};"
    return [
        AzureAccount(connection_string=f"{start}AccountKey={KEY}"),
        AzureAccount(
            connection_string=f"BlobEndpoint={url};SharedAccessSignature={token}", account=ACCOUNT
        ),
        AzureAccount(account=ACCOUNT, key=KEY),
        AzureAccount(account=ACCOUNT, sas_token="?" + token),
    ]


@pytest.mark.azurite
@pytest.mark.parametrize("form", range(4))
async def test_the_operators_account_in_each_form(make, threads, tmp_path, emulator, form):
    """Its own URLs are free of the address policy."""
    url, token = emulator
    target = tmp_path / "m.safetensors"
    fetch = fetcher(make, threads, target, forms(url, token)[form], allow="")

    got = await fetch(f"{url}/models/a%20b/m.safetensors")

    assert target.read_bytes() == BODY
    assert got.filename_hint == "m.safetensors"


@pytest.mark.azurite
async def test_a_request_brings_its_own_signature(make, threads, tmp_path, emulator):
    """In the URL, or set on it; without one the blob is not to be had."""
    url, token = emulator
    fetch = fetcher(make, threads, tmp_path / "m.safetensors")
    blob = f"{url}/models/a%20b/m.safetensors"
    parts = dict(pair.split("=", 1) for pair in token.split("&"))
    sig = parts.pop("sig")
    rest = "&".join(f"{name}={value}" for name, value in parts.items())
    await fetch(f"{blob}?{token}")
    await fetch(f"{blob}?{rest}", QueryAuth(query_param="sig", query_value=unquote(sig)))
    with pytest.raises(InputFailed, match=r"40[0-9]"):
        await fetch(blob)
    with pytest.raises(AccessDenied) as caught:
        await fetch(f"{blob}?{token}x")
    assert "sig=..." in caught.value.message


async def test_another_account_gets_none_of_the_operators_rights(make, threads, tmp_path, host):
    """Neither signature nor freedom of the policy."""
    account = AzureAccount(account="mine", key=KEY)
    host.put("/devstoreaccount1/models/m.safetensors", BODY)
    url = host.url("/devstoreaccount1/models/m.safetensors")

    await fetcher(make, threads, tmp_path / "m.safetensors", account)(url)
    assert {request.query for request in host.requests} == {""}
    with pytest.raises(UrlNotAllowed):
        await fetcher(make, threads, tmp_path / "m.safetensors", account, allow="")(url)


async def test_a_bearer_token_comes_with_a_version(make, threads, tmp_path, host):
    """The store wants one with it."""
    host.put("/devstoreaccount1/models/m.safetensors", BODY)
    url = host.url("/devstoreaccount1/models/m.safetensors")
    fetch = fetcher(make, threads, tmp_path / "m.safetensors")

    await fetch(url, BearerAuth(token=SECRET))
    await fetch(url, BasicAuth(username="a", password="b"))

    assert host.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    assert host.requests[0].headers["x-ms-version"] >= "2017"


async def test_settings_that_make_no_sense_are_told_without_the_key(make, threads, tmp_path, host):
    """And which there are."""
    url = host.url("/devstoreaccount1/models/m.safetensors")
    account = AzureAccount(connection_string=f"AccountKey={SECRET}")

    with pytest.raises(InputFailed, match="settings cannot be used") as caught:
        await fetcher(make, threads, tmp_path / "m", account)(url)
    assert SECRET not in str(caught.value.envelope()) + repr(account)
    with pytest.raises(InputFailed, match="type s3"):
        await fetcher(make, threads, tmp_path / "m")(
            url, S3Auth(access_key_id="a", secret_access_key=SECRET)
        )


@pytest.mark.parametrize(
    "place",
    [
        "http://mine.blob.core.azurite.evil.test:{port}/c/m",
        "http://mine.blob.core.windows.net.evil.test:{port}/devstoreaccount1/m",
        "http://mine.blob.core.windows.net@evil.test:{port}/devstoreaccount1/m",
        "http://mine.blob.core.windows.net:{port}/c/m",
    ],
)
@pytest.mark.parametrize("form", ["string", "key", "token"])
async def test_a_host_that_looks_like_the_operators_gets_nothing(
    make, threads, tmp_path, host, form, place
):
    """Neither its signature nor freedom of the address policy; not over plain HTTP either."""
    account = {
        "string": AzureAccount(
            connection_string="BlobEndpoint=https://mine.blob.core.windows.net;"
            f"SharedAccessSignature=sig={SECRET}"
        ),
        "key": AzureAccount(account="mine", key=KEY),
        "token": AzureAccount(account="mine", sas_token=f"sig={SECRET}"),
    }[form]
    url = place.format(port=host.port)
    name = url.partition("://")[2].rpartition("@")[2].partition(":")[0]

    async def resolver(asked, _port):
        assert asked == name
        return ["127.0.0.1"]

    for path in ("/c/m", "/devstoreaccount1/m"):
        host.put(path, BODY)
    free = HttpSource(AddressPolicy("", resolver), threads)
    checked = HttpSource(AddressPolicy("127.0.0.1", resolver), threads)
    await make(source=AzureSource(checked, free, threads, account)).download(
        Wanted(url, tmp_path / "m.safetensors")
    )

    assert {request.query for request in host.requests} == {""}
    assert SECRET not in str(host.requests)
