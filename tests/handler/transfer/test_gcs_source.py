"""Objects of Google Cloud Storage, from a host that looks like it."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sources.host import safetensors

from handler.credentials import BearerAuth, S3Auth
from handler.errors import InputFailed
from handler.inputs.address import AddressPolicy
from handler.transfer.gcs_source import GcsSource
from handler.transfer.http_source import HttpSource
from handler.transfer.records import Wanted

BODY = safetensors(6 << 20)
SECRET = "canary4711"


@pytest.fixture
def fetch(make, threads, host, tmp_path):
    def build(**options):
        http = HttpSource(AddressPolicy("*"), threads)
        source = GcsSource(http, threads, endpoint=host.url(""), **options)
        downloader = make(source=source)

        async def fetch(url, auth=None):
            got = await downloader.download(Wanted(url, tmp_path / "m.safetensors", auth=auth))
            await downloader.stat(url, auth)
            return got

        return fetch

    return build


@pytest.fixture
async def key_file(tmp_path):
    """The key of a service account whose tokens come from a host of the test's own."""
    asked = []

    async def token(request):
        asked.append(await request.post())
        return web.json_response({"access_token": SECRET, "expires_in": 3600})

    runner = web.ServerRunner(web.Server(token))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path / "key.json"
    account = {
        "type": "service_account",
        "client_email": "reader@project.test",
        "private_key": key.decode(),
        "token_uri": f"http://127.0.0.1:{runner.addresses[0][1]}/token",
    }
    path.write_text(json.dumps(account))
    yield path, asked
    await runner.cleanup()


async def test_public_objects_need_nothing(fetch, host, tmp_path):
    """Names are escaped as the store wants them."""
    host.put("/models/a%20b/m%3F.safetensors", BODY)

    got = await fetch()("gs://models/a b/m?.safetensors")

    assert (tmp_path / "m.safetensors").read_bytes() == BODY
    assert got.filename_hint == "m?.safetensors"
    assert "authorization" not in host.requests[0].headers


async def test_a_service_account_gets_one_token_for_all(fetch, host, key_file):
    """It is asked for once, while it is good."""
    path, asked = key_file
    host.put("/models/m.safetensors", BODY, wants={"authorization": f"Bearer {SECRET}"})
    get = fetch(key_file=path)

    await get("gs://models/m.safetensors")
    await get("gs://models/m.safetensors")

    assert len(asked) == 1


async def test_a_request_brings_its_own(fetch, host, tmp_path):
    """A token, or HMAC keys in the way of S3."""
    host.put("/models/m.safetensors", BODY)

    await fetch()("gs://models/m.safetensors", BearerAuth(token=SECRET))
    assert host.requests[-1].headers["authorization"] == f"Bearer {SECRET}"
    keys = S3Auth(access_key_id="GOOG1", secret_access_key=SECRET, endpoint="http://10.0.0.1")
    await fetch()("gs://models/m.safetensors", keys)
    assert "X-Amz-Signature=" in host.requests[-1].query
    assert "auto" in host.requests[-1].query


async def test_what_cannot_be_asked_is_told(fetch, tmp_path):
    """With what to set."""
    with pytest.raises(InputFailed, match="not a gs://bucket/object URL"):
        await fetch()("gs://models")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputFailed, match="GOOGLE_APPLICATION_CREDENTIALS"):
        await fetch(key_file=tmp_path / "bad.json")("gs://models/m")
