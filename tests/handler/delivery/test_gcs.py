"""Objects put into a storage that speaks like Google's."""

from __future__ import annotations

import asyncio
import urllib.request

import pytest
from sources.google import service_account, storage, tokens

from handler.delivery.base import PutFailed
from handler.delivery.gcs import GcsUploader, hmac_uploader
from handler.delivery.google import GoogleTokens
from handler.delivery.http_put import HttpPut
from handler.delivery.s3_client import S3Clients
from handler.errors import InvalidPayload
from handler.inputs.address import AddressPolicy
from handler.targets import Targets

SECRET = "canary4711secret"
TOKEN = {"type": "bearer", "token": SECRET}


@pytest.fixture
async def site():
    async with storage(SECRET) as running:
        yield running


@pytest.fixture
def uploader(threads, site):
    def make(google=None, **fields):
        target = Targets.model_validate({"gcs_upload": {"bucket": "results", **fields}})
        http = HttpPut(AddressPolicy("*"), threads)
        return GcsUploader(target.gcs_upload, http, tokens=google, endpoint=site.url)

    return make


async def test_an_object_is_stored_with_what_is_told_of_it(uploader, site, item, progress):
    """Its name is as it is written."""
    key = "out/a b%?#猫.png"
    file = item("ca t.png", 3_000_000, key=key)
    fields = {"cache_control": "no-store", "content_disposition": "attachment"}
    put = uploader(auth=TOKEN, **fields)
    await put.check()

    stored = await put.put(file, progress)

    assert site.files["results", key] == file.path.read_bytes()
    assert site.about["results", key] == {
        "name": key,
        "contentType": "image/png",
        "cacheControl": "no-store",
        "contentDisposition": 'attachment; filename="ca t.png"',
    }
    assert (stored.url, stored.etag) == (f"gs://results/{key}", "e1")
    assert progress.told[-1] == 3_000_000


async def test_the_operators_account_gets_the_token(
    uploader, site, item, progress, threads, tmp_path
):
    """Without any of the request's."""
    async with tokens(SECRET) as (url, _):
        put = uploader(GoogleTokens(service_account(tmp_path, url), threads))
        await put.check()

        await put.put(item("e.txt", 0), progress)

    assert site.files["results", "e.txt"] == b""
    assert not put.own_credentials
    assert SECRET in put.secrets


async def test_a_broken_upload_goes_on_where_it_ended(uploader, site, item, progress):
    """Twice; no byte is sent for nothing but those on the way."""
    site.breaks += [3_000_000, 2_000_000]
    file = item("video.mp4", 8_000_000)

    await uploader(auth=TOKEN).put(file, progress)

    assert site.files["results", "video.mp4"] == file.path.read_bytes()
    assert ("PUT", "bytes 3000000-7999999/8000000") in site.asked
    assert ("PUT", "bytes 5000000-7999999/8000000") in site.asked


async def test_what_breaks_each_time_is_given_up(uploader, site, item, progress):
    """For the next try, which begins anew."""
    site.breaks += [1000] * 9
    with pytest.raises(PutFailed) as caught:
        await uploader(auth=TOKEN).put(item("video.mp4", 8_000_000), progress)
    assert caught.value.passing


async def test_refusals_are_told_in_its_words(uploader, site, item, progress):
    """A bucket that is not there, a wrong token, a storage out of order."""
    with pytest.raises(PutFailed, match="404 The specified bucket") as caught:
        await uploader(auth=TOKEN, bucket="none").put(item(), progress)
    assert not caught.value.passing
    with pytest.raises(PutFailed, match="401") as denied:
        await uploader(auth={"type": "bearer", "token": "wrong-token"}).put(item(), progress)
    assert "token" in (denied.value.hint or "")
    site.statuses.append(503)
    with pytest.raises(PutFailed, match="503 for a while") as passing:
        await uploader(auth=TOKEN).put(item(), progress)
    assert passing.value.passing


async def test_what_is_not_set_up_is_a_400(uploader):
    """It says what to set."""
    with pytest.raises(InvalidPayload, match="not set up for Google") as caught:
        await uploader().check()
    assert "GOOGLE_APPLICATION_CREDENTIALS" in (caught.value.hint or "")
    with pytest.raises(InvalidPayload, match="HMAC"):
        await uploader(auth=TOKEN, presign_s=60).check()


async def test_hmac_keys_work_in_the_way_of_s3(threads, s3_server, item, progress, no_environment):
    """Links can be made with them."""
    endpoint, client = s3_server
    auth = {"type": "s3", "access_key_id": "GOOG1", "secret_access_key": SECRET}
    target = Targets.model_validate(
        {"gcs_upload": {"bucket": "results", "auth": auth, "presign_s": 60}}
    ).gcs_upload
    clients = S3Clients(None, None)
    put = hmac_uploader(target, clients, AddressPolicy("*"), threads, endpoint)
    await put.check()
    file = item("g.png")

    stored = await put.put(file, progress)
    await put.close()

    assert client.get_object(Bucket="results", Key="g.png")["Body"].read() == (
        file.path.read_bytes()
    )
    assert stored.location == "gs://results/g.png"
    assert put.kind == "gcs_upload"
    answer = await asyncio.to_thread(urllib.request.urlopen, stored.url)
    with answer:
        assert answer.read() == file.path.read_bytes()
