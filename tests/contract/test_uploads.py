"""Rows 22 to 40 of comfyui-api's own suite: outputs in storages, told by their URLs."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from contract.graphs import Graph, empty, fine, picture_of, save
from contract.storages import BUCKET, REPO, Files, appeared, assert_same_bytes, over
from receiver import receiving

if TYPE_CHECKING:
    import httpx
    from contract.storages import Storages
    from live import LiveServer

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
azure = pytest.mark.azurite
# The hub's own client calls httpx in a way that httpx has given up.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")


@pytest.fixture
def at() -> str:
    """A folder of the test's own, in whatever storage."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def azurite(storages: Storages) -> Storages:
    """The storages, where Azure's emulator is among them."""
    if storages.blobs is None:
        pytest.skip("no azurite-blob on the PATH: npm install -g azurite")
    return storages


def pictures(count: int = 1) -> Graph:
    """Give a graph that saves pictures, each unlike the others."""
    noisy = {"class_type": "ImageAddNoise", "inputs": {"image": ["1", 0], "seed": 7}}
    noisy["inputs"]["strength"] = 0.3  # type: ignore[index]
    return {"1": empty(512, 512, count), "2": noisy, "3": save("2", "out")}


def valid(found: Files, count: int, form: str = "png") -> None:
    """Check what the suite checks of stored pictures: their count, size and real format."""
    assert len(found) == count
    assert len(set(found.values())) == count
    for name, content in found.items():
        picture = picture_of(content)
        assert name.endswith(f".{form}")
        assert (picture.size, picture.format) == ((512, 512), FORMATS[form])
        assert getattr(picture, "n_frames", 1) == 1


def stored(answer: httpx.Response, urls: str, found: Files, count: int, form: str = "png") -> None:
    """Check an answer that waited: URLs in place of pictures, and the pictures at them."""
    body = fine(answer)
    assert body["images"] == [f"{urls}{name}" for name in body["filenames"]]
    assert len(body["images"]) == count
    assert all(url.endswith(f".{form}") for url in body["images"])
    assert_same_bytes(body["outputs"], found)
    valid(found, count, form)


def begun(answer: httpx.Response) -> str:
    """Give the id of an answer that did not wait."""
    body = answer.json()
    assert (answer.status_code, body.get("status")) == (202, "ok"), answer.text[:2000]
    job_id: str = body["id"]
    return job_id


def ended(server: LiveServer, job_id: str, found: Files, count: int) -> None:
    """Check what an upload that nobody waited for has brought, and that its job tells of it."""
    valid(found, count)
    record = over(server, job_id)
    assert record["status"] == "succeeded"
    assert_same_bytes(record["outputs"], found)


def s3(at: str, **keys: Any) -> dict[str, Any]:
    return {"s3": {"bucket": BUCKET, "prefix": f"{at}/", **keys}}


def blob(at: str, **keys: Any) -> dict[str, Any]:
    return {"azure_blob_upload": {"container": BUCKET, "blob_prefix": f"{at}/", **keys}}


def repo(at: str, **keys: Any) -> dict[str, Any]:
    return {"hf_upload": {"repo": REPO, "repo_type": "dataset", "directory": at, **keys}}


def http(storages: Storages, at: str, **keys: Any) -> dict[str, Any]:
    return {"http_upload": {"url_prefix": storages.puts.url(f"/{at}"), **keys}}


async def test_row_22_a_webhook_with_s3(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 22: the webhook's only image is the URL of an object that is there."""
    async with receiving() as receiver:
        keys = {**s3(at), "webhook_v2": receiver.url()}
        job_id = begun(await asyncio.to_thread(uploading.prompt, pictures(), **keys))
        (post,) = await receiver.got(1)
        post.verify()
        body = orjson.loads(post.body)
        found = await asyncio.to_thread(storages.in_s3, f"{at}/")

    assert body["id"] == post.id == job_id
    assert body["images"] == [f"s3://{BUCKET}/{at}/{name}" for name in found]
    valid(found, 1)


def test_row_23_s3(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 23: `async: false` answers with the URL of an object that is there."""
    answer = uploading.prompt(pictures(), **s3(at, **{"async": False}))

    stored(answer, f"s3://{BUCKET}/{at}/", storages.in_s3(f"{at}/"), 1)


def test_row_24_s3_as_webp(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 24: converted, name and URL end in `.webp`, and the object is WebP."""
    answer = uploading.prompt(pictures(), convert_output={"format": "webp"}, **s3(at))

    stored(answer, f"s3://{BUCKET}/{at}/", storages.in_s3(f"{at}/"), 1, "webp")


def test_row_25_s3_as_jpeg(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 25: the same for `.jpeg`."""
    answer = uploading.prompt(pictures(), convert_output={"format": "jpeg"}, **s3(at))

    stored(answer, f"s3://{BUCKET}/{at}/", storages.in_s3(f"{at}/"), 1, "jpeg")


def test_row_26_s3_batch(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 26: a batch of four gives four URLs and four objects."""
    answer = uploading.prompt(pictures(4), **s3(at))

    stored(answer, f"s3://{BUCKET}/{at}/", storages.in_s3(f"{at}/"), 4)


def test_row_27_s3_async(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 27: `async: true` answers at once, and the object appears."""
    job_id = begun(uploading.prompt(pictures(), **s3(at, **{"async": True})))

    ended(uploading, job_id, appeared(lambda: storages.in_s3(f"{at}/"), 1), 1)


def test_row_28_s3_async_batch(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 28: four objects appear."""
    job_id = begun(uploading.prompt(pictures(4), **s3(at, **{"async": True})))

    ended(uploading, job_id, appeared(lambda: storages.in_s3(f"{at}/"), 4), 4)


@azure
def test_row_29_azure(uploading: LiveServer, azurite: Storages, at: str) -> None:
    """Row 29: without `async` the answer waits; its URL has container and prefix."""
    answer = uploading.prompt(pictures(), **blob(at))

    assert azurite.blobs is not None
    stored(answer, f"{azurite.blobs.url}/{BUCKET}/{at}/", azurite.in_azure(f"{at}/"), 1)


@azure
def test_row_30_azure_batch(uploading: LiveServer, azurite: Storages, at: str) -> None:
    """Row 30: four URLs and four blobs."""
    answer = uploading.prompt(pictures(4), **blob(at))

    assert azurite.blobs is not None
    stored(answer, f"{azurite.blobs.url}/{BUCKET}/{at}/", azurite.in_azure(f"{at}/"), 4)


def test_row_31_hub(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 31: the URL is the hub's for a file of a dataset's revision."""
    answer = uploading.prompt(pictures(), **repo(at))

    urls = f"{storages.hub.endpoint}/datasets/{REPO}/resolve/main/{at}/"
    stored(answer, urls, storages.in_hub(at), 1)


def test_row_32_hub_batch(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 32: four URLs, and one commit of them."""
    commits = len(storages.hub.commits)
    answer = uploading.prompt(pictures(4), **repo(at))

    urls = f"{storages.hub.endpoint}/datasets/{REPO}/resolve/main/{at}/"
    stored(answer, urls, storages.in_hub(at), 4)
    assert len(storages.hub.commits) == commits + 1


def test_row_33_hub_async(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 33: the file is listed by the hub and can be downloaded."""
    job_id = begun(uploading.prompt(pictures(), **repo(at, **{"async": True})))

    ended(uploading, job_id, appeared(lambda: storages.in_hub(at), 1), 1)


def test_row_34_hub_async_batch(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 34: four are listed."""
    job_id = begun(uploading.prompt(pictures(4), **repo(at, **{"async": True})))

    ended(uploading, job_id, appeared(lambda: storages.in_hub(at), 4), 4)


@azure
def test_row_35_azure_async(uploading: LiveServer, azurite: Storages, at: str) -> None:
    """Row 35: the blob appears."""
    job_id = begun(uploading.prompt(pictures(), **blob(at, **{"async": True})))

    ended(uploading, job_id, appeared(lambda: azurite.in_azure(f"{at}/"), 1), 1)


@azure
def test_row_36_azure_async_batch(uploading: LiveServer, azurite: Storages, at: str) -> None:
    """Row 36: four blobs appear."""
    job_id = begun(uploading.prompt(pictures(4), **blob(at, **{"async": True})))

    ended(uploading, job_id, appeared(lambda: azurite.in_azure(f"{at}/"), 4), 4)


def test_row_37_http(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 37: the URL is the prefix with the name, and the file is there."""
    answer = uploading.prompt(pictures(), **http(storages, at))

    stored(answer, f"{storages.puts.url()}/{at}/", storages.in_puts(at), 1)


def test_row_38_http_batch(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 38: four of them."""
    answer = uploading.prompt(pictures(4), **http(storages, at))

    stored(answer, f"{storages.puts.url()}/{at}/", storages.in_puts(at), 4)


def test_row_39_http_async(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 39: the file appears below the prefix."""
    job_id = begun(uploading.prompt(pictures(), **http(storages, at, **{"async": True})))

    ended(uploading, job_id, appeared(lambda: storages.in_puts(at), 1), 1)


def test_row_40_http_async_batch(uploading: LiveServer, storages: Storages, at: str) -> None:
    """Row 40: four of them appear."""
    job_id = begun(uploading.prompt(pictures(4), **http(storages, at, **{"async": True})))

    ended(uploading, job_id, appeared(lambda: storages.in_puts(at), 4), 4)
