"""Objects of S3, from moto's server over HTTP."""

from __future__ import annotations

import boto3
import pytest
from moto.server import ThreadedMotoServer
from sources.host import safetensors

from handler.credentials import BearerAuth, S3Auth
from handler.errors import InputFailed, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.transfer.base import AccessDenied
from handler.transfer.http_source import HttpSource
from handler.transfer.records import Wanted
from handler.transfer.s3_source import S3Source, is_reserved

BODY = safetensors(6 << 20)
SECRET = "canary4711"
KEYS = {"aws_access_key_id": "AK", "aws_secret_access_key": SECRET}


@pytest.fixture(scope="module")
def server():
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **KEYS)
    client.create_bucket(Bucket="models")
    for key in ("a/m.safetensors", "a b?c#d%20é/m.safetensors"):
        client.put_object(Bucket="models", Key=key, Body=BODY)
    client.close()
    yield endpoint
    running.stop()


@pytest.fixture
def no_environment(monkeypatch, tmp_path):
    """Nothing of the machine's own for boto3 to find."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


@pytest.fixture
def fetch(make, threads, tmp_path, server, no_environment):
    def build(allow="127.0.0.1", **options):
        checked = HttpSource(AddressPolicy(allow), threads)
        free = HttpSource(AddressPolicy("*"), threads)
        downloader = make(source=S3Source(checked, free, threads, **options))

        async def fetch(url, auth=None):
            return await downloader.download(Wanted(url, tmp_path / "m.safetensors", auth=auth))

        return fetch

    return build


async def test_the_operators_keys_are_used(fetch, server, no_environment, tmp_path):
    """As boto3 finds them; in parts."""
    no_environment.setenv("AWS_ACCESS_KEY_ID", "AK")
    no_environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    get = fetch(region="us-east-1", endpoint=server, allow="")

    got = await get("s3://models/a/m.safetensors")

    assert got.filename_hint == "m.safetensors"
    assert (tmp_path / "m.safetensors").read_bytes() == BODY


async def test_a_request_brings_its_own_keys_and_endpoint(fetch, server, tmp_path):
    """Without anything set."""
    auth = S3Auth(access_key_id="AK", secret_access_key=SECRET, endpoint=server, region="eu-west-1")

    await fetch()("s3://models/a/m.safetensors", auth)

    assert (tmp_path / "m.safetensors").read_bytes() == BODY


async def test_an_endpoint_of_a_caller_is_under_the_address_policy(fetch, server):
    """The operator's is not."""
    auth = S3Auth(access_key_id="AK", secret_access_key=SECRET, endpoint=server)

    with pytest.raises(UrlNotAllowed):
        await fetch(allow="")("s3://models/a/m.safetensors", auth)


async def test_the_operators_keys_do_not_read_the_state(fetch, server, no_environment, tmp_path):
    """There are the results of everybody; who has keys of their own may."""
    no_environment.setenv("AWS_ACCESS_KEY_ID", "AK")
    no_environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    get = fetch(region="us-east-1", endpoint=server, reserved="models/a/")

    with pytest.raises(UrlNotAllowed, match="keeps its state"):
        await get("s3://models/a/m.safetensors")

    auth = S3Auth(access_key_id="AK", secret_access_key=SECRET, endpoint=server)
    await get("s3://models/a/m.safetensors", auth)
    assert (tmp_path / "m.safetensors").read_bytes() == BODY


@pytest.mark.parametrize(
    ("reserved", "key", "found"),
    [
        ("b/p/", "p/jobs/x", True),
        ("b/p/", "/p/jobs/x", True),
        ("b/p/", "out/..//p/x", True),
        ("b/p/", "pp/x", False),
        ("b/", "anything", True),
        ("c/p/", "p/x", False),
        ("", "p/x", False),
    ],
)
def test_what_lies_below_the_prefix_is_reserved(reserved, key, found):
    """However it is spelt: some stores read a path as a disk would."""
    assert is_reserved(reserved, "b", key) is found


async def test_a_key_is_what_is_written(fetch, server, tmp_path):
    """Nothing in it is an escape."""
    auth = S3Auth(access_key_id="AK", secret_access_key=SECRET, endpoint=server)

    await fetch()("s3://models/a b?c#d%20é/m.safetensors", auth)

    assert (tmp_path / "m.safetensors").read_bytes() == BODY


async def test_what_is_not_there_is_told_by_its_own_name(fetch, server):
    """Not by the signed address."""
    auth = S3Auth(access_key_id="AK", secret_access_key=SECRET, endpoint=server)

    with pytest.raises(InputFailed, match=r"^s3://models/none: 404") as caught:
        await fetch()("s3://models/none", auth)
    assert "Signature" not in str(caught.value.envelope())


async def test_a_bucket_without_keys_is_asked_without_a_signature(fetch, host, tmp_path):
    """Public ones can be read so."""
    host.put("/models/m.safetensors", BODY)

    await fetch(region="us-east-1", endpoint=host.url("").rstrip("/"))("s3://models/m.safetensors")

    assert host.requests[0].query == ""


async def test_another_region_is_followed(fetch, host):
    """As the refusal names it."""
    auth = S3Auth(access_key_id="AK", secret_access_key=SECRET, endpoint=host.url(""))
    moved = (301, {"x-amz-bucket-region": "eu-north-1"})
    host.put("/models/m.safetensors", BODY, statuses=[moved])

    await fetch()("s3://models/m.safetensors", auth)

    assert "us-east-1" in host.requests[0].query
    assert "eu-north-1" in host.requests[1].query
    assert SECRET not in str(host.requests)


async def test_a_refusal_asks_for_credentials(fetch, host):
    """And says so."""
    auth = S3Auth(access_key_id="AK", secret_access_key=SECRET, endpoint=host.url(""))
    host.put("/models/m.bin", BODY, statuses=[(403, {})] * 2)

    with pytest.raises(AccessDenied, match=r"s3://models/m.bin: 403"):
        await fetch()("s3://models/m.bin", auth)


@pytest.mark.parametrize(
    ("url", "auth", "told"),
    [
        ("s3://models/m.bin", None, "not set up for S3"),
        ("s3://models", None, "not an s3://bucket/key URL"),
        (f"s3://key:{SECRET}@models/m", None, "not an s3://bucket/key URL"),
        ("s3://models/m.bin", BearerAuth(token=SECRET), "type s3, not bearer"),
        (
            "s3://models/m.bin",
            S3Auth(access_key_id="A", secret_access_key=SECRET, endpoint="ftp://x"),
            "must be an http",
        ),
        (
            "s3://models/m.bin",
            S3Auth(access_key_id="A", secret_access_key="B", endpoint=f"http://me:{SECRET}@ /"),
            "Invalid endpoint",
        ),
        (
            "s3://models/m.bin",
            S3Auth(access_key_id="A", secret_access_key="B", endpoint=f"http://h/?k={SECRET}"),
            "not a valid URI",
        ),
        ("s3://../m.bin", None, "not an s3://bucket/key URL"),
    ],
)
async def test_what_cannot_be_asked_is_told(fetch, url, auth, told):
    """With what to set."""
    with pytest.raises(InputFailed, match=told) as caught:
        await fetch()(url, auth)
    assert SECRET not in str(caught.value.envelope())
