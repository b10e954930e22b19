"""Objects put into moto's server, and read back."""

from __future__ import annotations

import asyncio
import urllib.request

import pytest

from handler.delivery.base import PutFailed
from handler.delivery.s3 import S3Uploader
from handler.delivery.s3_client import S3Clients
from handler.errors import InvalidPayload, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.targets import Targets
from handler.transfer.threads import Threads

SECRET = "canary4711secret"
AUTH = {"access_key_id": "AK", "secret_access_key": SECRET}
REFUSAL = "<Error><Code>{}</Code><Message>because of {}</Message></Error>"


@pytest.fixture
async def uploader(threads, no_environment):
    made = []

    def make(region="us-east-1", store=None, allow="127.0.0.1", reserved="", **fields):
        part_bytes = fields.pop("part_bytes", 16 << 20)
        clients = S3Clients(region, store)
        target = Targets.model_validate({"s3": {"bucket": "results", **fields}}).s3
        policy = AddressPolicy(allow)
        uploader = S3Uploader(
            target, clients, policy, threads, part_bytes=part_bytes, reserved=reserved
        )
        made.append((uploader, clients))
        return uploader

    yield make
    for uploader, clients in made:
        await uploader.close()
        clients.close()


@pytest.fixture
def operators_keys(no_environment):
    no_environment.setenv("AWS_ACCESS_KEY_ID", "AK")
    no_environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


async def test_the_operators_store_takes_an_object(
    uploader, s3_server, operators_keys, item, progress
):
    """Free of the address policy, with its type; the key is as it is written."""
    endpoint, client = s3_server
    key = "out/a b%20?#猫+é.png"
    file = item("cat.png", key=key)
    put = uploader(store=endpoint, allow="")
    await put.check()

    stored = await put.put(file, progress)

    got = client.get_object(Bucket="results", Key=key)
    assert got["Body"].read() == file.path.read_bytes()
    assert got["ContentType"] == "image/png"
    assert stored.url == stored.location == f"s3://results/{key}"
    assert stored.etag == got["ETag"].strip('"')
    assert progress.told == [5000]
    assert not put.own_credentials


async def test_a_request_brings_its_own_keys_and_endpoint(uploader, s3_server, item, progress):
    """Without anything set; with what is told of the object."""
    endpoint, client = s3_server
    fields = {"cache_control": "public, max-age=60", "content_disposition": "attachment"}
    put = uploader(region=None, endpoint=endpoint, auth=AUTH, **fields)
    await put.check()

    await put.put(item("ca t猫.png", key="own.png"), progress)

    head = client.head_object(Bucket="results", Key="own.png")
    assert head["CacheControl"] == "public, max-age=60"
    assert head["ContentDisposition"].startswith('attachment; filename="ca t_.png"; filename*=UTF')
    assert put.own_credentials


async def test_a_large_file_goes_in_parts(uploader, s3_server, item, progress):
    """64 MB in parts of 8; read back byte for byte."""
    endpoint, client = s3_server
    file = item("video.mp4", 64 << 20)

    stored = await uploader(endpoint=endpoint, auth=AUTH, part_bytes=8 << 20).put(file, progress)

    assert str(stored.etag).endswith("-8")
    assert progress.told[-1] == 64 << 20
    assert client.get_object(Bucket="results", Key="video.mp4")["Body"].read() == (
        file.path.read_bytes()
    )


async def test_an_empty_file_is_stored(uploader, s3_server, item, progress):
    """Nothing of it is no fault."""
    endpoint, client = s3_server

    await uploader(endpoint=endpoint, auth=AUTH).put(item("e.txt", 0), progress)

    assert client.head_object(Bucket="results", Key="e.txt")["ContentLength"] == 0


async def test_a_link_is_given_on_request(uploader, s3_server, item, progress):
    """It lets anybody in for its time; the location has none of it."""
    endpoint, _ = s3_server
    file = item("a b.png", key="x/a b.png")

    stored = await uploader(endpoint=endpoint, auth=AUTH, presign_s=60).put(file, progress)

    assert "X-Amz-Expires=60" in stored.url
    assert stored.location == "s3://results/x/a b.png"
    assert SECRET not in stored.url
    answer = await asyncio.to_thread(urllib.request.urlopen, stored.url)
    with answer:
        assert answer.read() == file.path.read_bytes()


async def test_an_endpoint_of_a_caller_is_under_the_address_policy(
    uploader, s3_server, item, progress
):
    """Before the job runs, and when it is stored."""
    endpoint, _ = s3_server
    put = uploader(endpoint=endpoint, auth=AUTH, allow="")
    with pytest.raises(UrlNotAllowed) as caught:
        await put.check()
    assert caught.value.location == "s3.endpoint"
    with pytest.raises(UrlNotAllowed):
        await put.put(item(), progress)


async def test_a_name_is_not_looked_up_again(threads, store, item, progress, no_environment):
    """What was checked is what is dialled."""
    asked = []

    async def resolver(host, port):
        asked.append(host)
        return ["127.0.0.1"]

    target = Targets.model_validate(
        {
            "s3": {
                "bucket": "results",
                "endpoint": store.url(host="store.test"),
                "auth": AUTH,
            }
        }
    ).s3
    policy = AddressPolicy("127.0.0.1", resolver)
    put = S3Uploader(target, S3Clients(None, None), policy, threads)

    await put.put(item(key="a b"), progress)
    await put.close()

    assert asked == ["store.test"]
    (sent,) = store.puts
    assert (sent.path, sent.headers["host"]) == ("/results/a%20b", f"store.test:{store.port}")
    assert sent.body == item().path.read_bytes()
    assert not any("crc" in name or "trailer" in name for name in sent.headers)


@pytest.mark.parametrize(
    ("fields", "region", "told"),
    [
        ({}, None, "not set up for S3"),
        ({}, "us-east-1", "no keys for S3"),
        ({"endpoint": "http://127.0.0.1:1"}, "us-east-1", "own endpoint|request's own keys"),
    ],
)
async def test_what_is_not_set_up_is_a_400(uploader, fields, region, told):
    """It says what to set, for both sides."""
    with pytest.raises(InvalidPayload, match=told) as caught:
        await uploader(region=region, **fields).check()
    assert caught.value.location == "s3"
    assert "s3.auth" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("status", "code", "passing", "hint"),
    [
        (403, "AccessDenied", False, "PutObject"),
        (404, "NoSuchBucket", False, "make the bucket"),
        (503, "SlowDown", True, None),
        (400, "RequestTimeout", True, None),
        (400, "InvalidArgument", False, None),
    ],
)
async def test_refusals_are_told_in_the_stores_words(
    uploader, store, item, progress, status, code, passing, hint
):
    """With whether another try may do."""
    store.replies += [(status, {"Content-Type": "application/xml"}, REFUSAL.format(code, code))] * 5

    with pytest.raises(PutFailed, match=f"{status} {code}: because of") as caught:
        await uploader(endpoint=store.url(), auth=AUTH).put(item(), progress)

    fault = caught.value
    assert (fault.status, fault.code, fault.passing) == (status, code, passing)
    assert hint is None or hint in (fault.hint or "")
    assert SECRET not in str(vars(fault))


async def test_a_bucket_that_is_not_there_is_told(uploader, s3_server, item, progress):
    """In one request, or in parts."""
    endpoint, _ = s3_server
    for file in (item(), item("video.mp4", 11 << 20)):
        put = uploader(endpoint=endpoint, auth=AUTH, bucket="none", part_bytes=5 << 20)
        with pytest.raises(PutFailed, match="NoSuchBucket") as caught:
            await put.put(file, progress)
        assert (caught.value.passing, caught.value.whose) == (False, "place")


async def test_a_short_fault_is_overcome_by_the_library(uploader, store, item, progress):
    """A 500, then the object."""
    store.replies.append((500, {}, ""))

    await uploader(endpoint=store.url(), auth=AUTH).put(item(), progress)

    assert len(store.puts) == 2


async def test_a_store_that_cannot_be_reached_may_be_the_next_time(
    uploader, free_port, item, progress, tmp_path
):
    """Told without its address; a file that is gone is another thing."""
    put = uploader(endpoint=f"http://127.0.0.1:{free_port}", auth=AUTH)
    with pytest.raises(PutFailed, match="cannot be reached") as caught:
        await put.put(item(), progress)
    assert caught.value.passing
    assert "127.0.0.1" not in str(caught.value)
    file = item("gone.png")
    file.path.unlink()
    with pytest.raises(PutFailed, match="cannot be read") as gone:
        await put.put(file, progress)
    assert gone.value.whose == "worker"


async def test_the_operators_keys_do_not_write_over_the_state(
    uploader, s3_server, operators_keys, item, progress
):
    """Else one caller could answer for the jobs of another."""
    endpoint, _ = s3_server
    put = uploader(store=endpoint, allow="", reserved="results/state/")

    with pytest.raises(PutFailed, match="keeps its state") as caught:
        await put.put(item("cat.png", key="state/jobs/00/x"), progress)
    assert not caught.value.passing
    await put.put(item("cat.png", key="out/state/x"), progress)


async def test_a_store_that_never_answers_holds_no_thread_for_ever(no_environment, store, item):
    """It would need a few dozens, and no upload of anybody's had one any more."""
    store.gate = asyncio.Event()
    pool = Threads(1)
    fields = {"bucket": "results", "endpoint": store.url(), "auth": {"type": "s3", **AUTH}}
    target = Targets.model_validate({"s3": fields}).s3
    put = S3Uploader(target, S3Clients(None, None), AddressPolicy("127.0.0.1"), pool)
    try:
        for count in (1, 2):  # the second one with a client of its own
            task = asyncio.create_task(put.put(item("cat.png"), lambda _: None))
            async with asyncio.timeout(20):  # a client may take seconds to be made
                while len(store.puts) < count:
                    await asyncio.sleep(0.01)
            task.cancel()  # as the limit on a try does
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(10):
                assert await pool.call(lambda: "free") == "free"
    finally:
        store.gate.set()
        await put.close()
        pool.close()


async def test_a_cancelled_upload_stops_by_itself(uploader, store, item):
    """Its threads look at each step whether they are still wanted."""
    store.gate = asyncio.Event()
    put = uploader(endpoint=store.url(), auth=AUTH, part_bytes=5 << 20)
    task = asyncio.create_task(put.put(item("video.mp4", 40 << 20), lambda _: None))
    while not store.puts:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store.gate.set()
