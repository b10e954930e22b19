"""URLs that the caller made, each for one PUT."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from handler.delivery.base import PutFailed
from handler.delivery.http_put import HttpPut
from handler.delivery.presigned import PresignedUploader
from handler.errors import InvalidPayload, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.targets import Targets

SECRET = "canary4711secret"


@pytest.fixture
def uploader(threads):
    def make(allow="127.0.0.1", **fields):
        policy = AddressPolicy(allow)
        target = Targets.model_validate({"presigned": fields}).presigned
        return PresignedUploader(target, HttpPut(policy, threads), policy)

    return make


async def test_a_url_of_s3_takes_the_file(uploader, s3_server, item, progress):
    """As a client of S3 signs it; the signature is not given back."""
    endpoint, client = s3_server
    key = "pre/a b猫.png"
    url = client.generate_presigned_url(
        "put_object",
        Params={"Bucket": "results", "Key": key, "ContentType": "image/png"},
        ExpiresIn=60,
    )
    file = item("cat.png")

    stored = await uploader(url=url).put(file, progress)

    got = client.get_object(Bucket="results", Key=key)
    assert got["Body"].read() == file.path.read_bytes()
    assert got["ContentType"] == "image/png"
    assert stored.url == f"{endpoint}/results/{quote(key)}"
    assert "Signature" not in stored.location


async def test_a_url_is_sent_as_it_was_written(uploader, store, item, progress):
    """A signature is made over its very letters."""
    path = "/a%2Fb/c%20d+e~f?X-Amz-Signature=a%2Bb%3D&x=%E7%8C%AB"

    stored = await uploader(url=store.url(path, user="u:p@")).put(item(), progress)

    assert f"{store.puts[0].path}?{store.puts[0].query}" == path
    assert stored.url == store.url("/a%2Fb/c%20d+e~f")


async def test_each_output_has_its_own_url(uploader, store, item, progress):
    """In the order of the answer; one too few is told with what to send."""
    sender = uploader(urls=[store.url("/0"), store.url("/1")])
    a, b = item("a.png"), item("b.png", place=1)

    await sender.put(b, progress)
    await sender.put(a, progress)

    assert store.files == {"/0": a.path.read_bytes(), "/1": b.path.read_bytes()}
    with pytest.raises(
        InvalidPayload, match=r"there are 2 presigned URLs, and this is output 3: c\.png"
    ) as few:
        await sender.put(item("c.png", place=2), progress)
    assert "presigned.urls" in (few.value.hint or "")
    assert (few.value.status, few.value.blame) == (400, "caller")
    with pytest.raises(InvalidPayload, match="there is one presigned URL"):
        await uploader(url=store.url("/0")).put(item("c.png", place=1), progress)
    assert sender.waits


async def test_what_was_signed_can_be_set(uploader, store, item, progress):
    """Another content type, none, and more headers; Azure's get the kind of blob."""
    await uploader(url=store.url("/a"), content_type="x/y").put(item(), progress)
    await uploader(url=store.url("/a"), content_type="").put(item(), progress)
    headers = {"x-amz-acl": SECRET, "content-type": "a/b"}
    await uploader(url=store.url("/a"), headers=headers).put(item(), progress)
    await uploader(url=store.url("/a?sv=1&sp=w&sig=x")).put(item(), progress)

    sent = [put.headers for put in store.puts]
    assert [one.get("content-type") for one in sent] == ["x/y", None, "a/b", "image/png"]
    assert sent[2]["x-amz-acl"] == SECRET
    assert [one.get("x-ms-blob-type") for one in sent] == [None, None, None, "BlockBlob"]


async def test_a_refused_signature_is_explained(uploader, store, item, progress):
    """It has expired, or was made for other headers."""
    store.replies.append((403, {"Content-Type": "application/xml"}, "<Code>AccessDenied</Code>"))
    url = store.url("/a?X-Amz-SignedHeaders=content-type%3Bhost&X-Amz-Signature=" + SECRET)

    with pytest.raises(PutFailed, match="403 <Code>AccessDenied") as caught:
        await uploader(url=url).put(item(), progress)

    assert not caught.value.passing
    assert caught.value.hint == (
        "the URL has expired, or was signed for another content type or method: "
        "`Content-Type: image/png` was sent, and it is signed for these headers: "
        "content-type;host; presigned.content_type and presigned.headers set what is sent"
    )
    store.replies.append((500, {}, "oh"))
    with pytest.raises(PutFailed) as passing:
        await uploader(url=url).put(item(), progress)
    assert passing.value.passing


async def test_every_host_is_held_to_the_policy(uploader, store):
    """Before the job runs."""
    urls = ["http://127.0.0.1/a", "http://10.0.0.1/b"]
    with pytest.raises(UrlNotAllowed):
        await uploader(urls=urls).check()
    await uploader(urls=urls, allow="127.0.0.1,10.0.0.1").check()
    sender = uploader(url=store.url("/?sig=" + SECRET))
    assert SECRET in sender.secrets
    assert SECRET not in sender.location("")
    await sender.close()
