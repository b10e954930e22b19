"""Blobs put into the emulator where it is installed, else into a store that looks like it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas

from handler.delivery.azure import AzureUploader
from handler.delivery.base import PutFailed
from handler.delivery.strike import struck
from handler.errors import InvalidPayload, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.targets import Targets
from handler.transfer.azure_source import AzureAccount

ACCOUNT = "devstoreaccount1"
# The emulator's own, the same everywhere.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
SECRET = "canary4711secret"
SECRET_KEY = "Y2FuYXJ5NDcxMXNlY3JldA=="
SAS = f"sv=2020-01-01&sp=w&sig={SECRET}"
AWKWARD = "a b/50%?#猫.png"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    """Give the account's URL, a SAS token for its container, and a client of it."""
    command = shutil.which("azurite-blob")
    if command is None:
        pytest.skip("no azurite-blob on the PATH: npm install -g azurite")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("azurite")
    arguments = ["--blobPort", str(port), "--location", folder, "--silent", "--skipApiVersionCheck"]
    with subprocess.Popen([command, *arguments], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
        url = f"http://127.0.0.1:{port}/{ACCOUNT}"
        token = generate_container_sas(
            ACCOUNT,
            "results",
            account_key=KEY,
            permission=ContainerSasPermissions(read=True, write=True, create=True),
            expiry=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1),
        )
        with BlobServiceClient(url, credential=KEY) as service:
            container = service.create_container("results")
            yield url, token, container
            container.close()
        process.terminate()


@pytest.fixture
async def uploader(threads):
    made = []

    def make(account=None, allow="127.0.0.1", block_bytes=16 << 20, **fields):
        target = Targets.model_validate({"azure_blob_upload": {"container": "results", **fields}})
        made.append(
            AzureUploader(
                target.azure_blob_upload,
                account or AzureAccount(),
                AddressPolicy(allow),
                threads,
                block_bytes=block_bytes,
            )
        )
        return made[-1]

    yield make
    for uploader in made:
        await uploader.close()


def whole(url, key=KEY):
    """Give a connection string."""
    start = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};BlobEndpoint={url};"
    return f"{start}AccountKey={key}"


def shared(url, token):
    return f"BlobEndpoint={url};SharedAccessSignature={token}"


@pytest.mark.azurite
@pytest.mark.parametrize("form", ["whole", "shared"])
async def test_the_operators_account_takes_a_blob(uploader, emulator, item, progress, form):
    """Free of the address policy; no token is in the URL."""
    url, token, container = emulator
    account = AzureAccount(whole(url) if form == "whole" else shared(url, token))
    put = uploader(account, allow="")
    await put.check()
    file = item("cat.png", key=AWKWARD)

    stored = await put.put(file, progress)

    blob = container.download_blob(AWKWARD)
    assert blob.readall() == file.path.read_bytes()
    assert blob.properties.content_settings.content_type == "image/png"
    assert stored.url == stored.location == f"{url}/results/a b/50%25%3F%23猫.png"
    assert stored.etag
    assert progress.told[-1] == 5000


@pytest.mark.azurite
@pytest.mark.parametrize("form", range(4))
async def test_a_request_brings_its_own_account(uploader, emulator, item, progress, form):
    """In each of its forms, held to the policy; with what is told of the blob."""
    url, token, container = emulator
    auth = [
        {"connection_string": whole(url)},
        {"connection_string": shared(url, token)},
        {"account": ACCOUNT, "key": KEY},
        {"account": ACCOUNT, "sas_token": f"?{token}"},
    ][form]
    fields = {"cache_control": "no-cache", "content_disposition": "inline", "auth": auth}
    if form > 1:
        fields["endpoint"] = url
    put = uploader(**fields)
    await put.check()

    stored = await put.put(item("cat.png", key=f"own-{form}.png"), progress)

    settings = container.download_blob(f"own-{form}.png").properties.content_settings
    assert settings.cache_control == "no-cache"
    assert settings.content_disposition == 'inline; filename="cat.png"'
    assert stored.url == f"{url}/results/own-{form}.png"
    assert put.own_credentials
    with pytest.raises(UrlNotAllowed):
        await uploader(allow="", **fields).check()


@pytest.mark.azurite
async def test_a_large_file_goes_in_blocks(uploader, emulator, item, progress):
    """24 MB in blocks of 4; read back byte for byte."""
    url, _, container = emulator
    file = item("video.mp4", 24 << 20)

    await uploader(AzureAccount(whole(url)), block_bytes=4 << 20).put(file, progress)

    assert container.download_blob("video.mp4").readall() == file.path.read_bytes()
    assert progress.told[-1] == 24 << 20
    blob = container.get_blob_client("video.mp4")
    assert len(blob.get_block_list()[0]) == 6


@pytest.mark.azurite
async def test_a_link_is_given_on_request(uploader, emulator, item, progress):
    """It lets anybody in for its time."""
    url, token, _ = emulator
    file = item("cat.png", key=AWKWARD)

    stored = await uploader(AzureAccount(whole(url)), presign_s=60).put(file, progress)

    answer = await asyncio.to_thread(urllib.request.urlopen, stored.url)
    with answer:
        assert answer.read() == file.path.read_bytes()
    assert "sig=" not in stored.location
    with pytest.raises(InvalidPayload, match="account's key"):
        await uploader(AzureAccount(shared(url, token)), presign_s=60).check()


@pytest.mark.azurite
async def test_refusals_are_told_by_status_and_code(uploader, emulator, item, progress):
    """A container that is not there; a token that is not right."""
    url, token, _ = emulator
    with pytest.raises(PutFailed, match="404 ContainerNotFound") as caught:
        await uploader(AzureAccount(whole(url)), container="none").put(item(), progress)
    assert (caught.value.passing, caught.value.code) == (False, "ContainerNotFound")
    assert (caught.value.whose, caught.value.hint) == (
        "place",
        "make the container first, or name another one",
    )
    wrong = uploader(AzureAccount(shared(url, token[:-8] + "AAAAAA%3D")))
    with pytest.raises(PutFailed, match="403") as refused:
        await wrong.put(item(), progress)
    assert not refused.value.passing
    assert token.split("sig=")[1] not in str(vars(refused.value))


async def test_another_try_may_do_when_the_store_is_out_of_order(
    uploader, store, free_port, item, progress
):
    """After those of the library."""
    store.replies += [(503, {}, "")] * 3
    put = uploader(auth={"connection_string": whole(store.url())})
    with pytest.raises(PutFailed, match="503") as caught:
        await put.put(item(), progress)
    assert caught.value.passing
    assert len(store.puts) == 3


@pytest.mark.parametrize(
    ("account", "fields", "told"),
    [
        (None, {}, "not set up for Azure"),
        (AzureAccount(account="acct", key=KEY), {"endpoint": "http://127.0.0.1"}, "own account"),
        (AzureAccount(f"AccountKey={SECRET}"), {}, "operator's account settings"),
        (None, {"auth": {"connection_string": SECRET}}, "request's account settings"),
        (None, {"auth": {"connection_string": shared("http://e:99999", SAS)}}, "no http.s. URL"),
        (None, {"auth": {"connection_string": shared("httpx://e", SAS)}}, "no http.s. URL"),
    ],
)
async def test_what_is_not_set_up_is_a_400(uploader, account, fields, told):
    """It says what to set, and no secret."""
    with pytest.raises(InvalidPayload, match=told) as caught:
        await uploader(account, **fields).check()
    assert SECRET not in str(caught.value.envelope())
    assert caught.value.hint


async def test_a_key_that_is_none_is_told(uploader, store, item, progress):
    """Without it."""
    put = uploader(auth={"connection_string": whole(store.url(), f"{SECRET}A")})

    with pytest.raises(PutFailed) as caught:
        await put.put(item(), progress)
    assert not caught.value.passing
    assert SECRET not in str(vars(caught.value))


@pytest.mark.parametrize(
    ("status", "code", "whose", "hint"),
    [
        (404, "ContainerNotFound", "place", "make the container first"),
        (403, "AuthenticationFailed", "store", "the key is not the account's"),
        (418, "SomethingNew", "store", ""),
    ],
)
async def test_a_refusal_is_told_by_azures_own_word(
    uploader, store, item, progress, status, code, whose, hint
):
    """The hint is found by it, also where the library knows it as a member of an enum."""
    store.replies += [(status, {"x-ms-error-code": code}, "")] * 4
    put = uploader(auth={"connection_string": whole(store.url())})

    with pytest.raises(PutFailed, match=f"^{status} {code}$") as caught:
        await put.put(item(), progress)

    assert (caught.value.code, caught.value.whose) == (code, whose)
    assert hint in (caught.value.hint or "")


async def test_a_place_is_told_with_its_account(uploader, store):
    """It is no secret, though it stands in the connection string; the key is."""
    url = store.url()
    put = uploader(AzureAccount(whole(url, SECRET_KEY)))
    await put._open()

    place = put.location("a.png")

    assert struck(place, put.secrets) == place == f"{url}/results/a.png"
    assert struck(f"{ACCOUNT} {SECRET_KEY}", put.secrets) == f"{ACCOUNT} …"
