"""What uploads do beyond comfyui-api's: more storages, names, keys of callers', large files."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httpx
import pytest
from contract.graphs import Graph, empty, fine, picture_of, plain, refused, save
from contract.storages import BUCKET, Files, appeared, assert_same_bytes, over
from contract.test_uploads import at, begun, blob, http, pictures, repo, s3, valid
from sources.nginx import Nginx, nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contract.storages import Storages
    from live import LiveServer

__all__ = ["at"]  # a fixture
JOB_ID = "räume & 猫 #1"
KEY = "{prefix}{id}/{node} {sha256}/{filename}"
VIDEO_BYTES = 200 * 1000 * 1000
ROOM_MB = 50
"""The most that a worker may need for an upload of any size."""

only_embedded = pytest.mark.parametrize("uploading", ["embedded"], indirect=True)
# The hub's own client calls httpx in a way that httpx has given up.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")


@pytest.fixture(scope="module")
def dav(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """nginx with its WebDAV part."""
    if shutil.which("nginx") is None:
        pytest.skip("no nginx on the PATH")
    methods = "dav_methods PUT; create_full_put_path on; client_max_body_size 0;"
    with nginx(tmp_path_factory.mktemp("dav"), server=methods) as running:
        yield running


def gcs(at: str, **keys: Any) -> dict[str, Any]:
    return {"gcs_upload": {"bucket": BUCKET, "prefix": f"{at}/", **keys}}


def volume(storages: Storages, at: str, **keys: Any) -> dict[str, Any]:
    return {"volume": {"path": str(storages.disk), "prefix": f"{at}/", **keys}}


def below(folder: Path) -> Files:
    """Read the files below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def named(storages: Storages, kind: str, at: str, **keys: Any) -> tuple[dict[str, Any], Any]:
    """Give an upload object, and what reads its files back."""
    match kind:
        case "s3":
            return s3(at, **keys), lambda: storages.in_s3(f"{at}/")
        case "azure":
            if storages.blobs is None:
                pytest.skip("no azurite-blob on the PATH: npm install -g azurite")
            return blob(at, **keys), lambda: storages.in_azure(f"{at}/")
        case "hub":
            return repo(at, **keys), lambda: storages.in_hub(at)
        case "http":
            return http(storages, at, **keys), lambda: storages.in_puts(at)
        case "gcs":
            return gcs(at, **keys), lambda: storages.in_gcs(f"{at}/")
    return volume(storages, at, **keys), lambda: below(storages.disk / at)


KINDS = ["s3", pytest.param("azure", marks=pytest.mark.azurite), "hub", "http", "gcs", "volume"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_with_spaces_and_other_scripts(
    uploading: LiveServer, storages: Storages, at: str, kind: str
) -> None:
    """Folder, id and file are called as they were asked to be, byte for byte, each of a batch."""
    folder = at if kind == "http" else f"{at} ein ordner/münzen 猫"
    target, read = named(storages, kind, folder, key=KEY)
    graph = pictures(4)
    graph["3"]["inputs"]["filename_prefix"] = "größe 猫 100%"

    body = fine(uploading.prompt(graph, id=JOB_ID, **target))

    found = read()
    assert found.keys() == {
        f"{JOB_ID}/3 {one['sha256']}/{one['filename']}" for one in body["outputs"]
    }
    assert all("größe 猫 100%" in name for name in found)
    files = {name.rpartition("/")[2]: content for name, content in found.items()}
    assert_same_bytes(body["outputs"], files)
    valid(files, 4)
    for url, name in zip(body["images"], body["filenames"], strict=True):
        assert unquote(url).endswith(f"/{name}")


@pytest.mark.parametrize("form", ["jpeg", "webp"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_converted(
    uploading: LiveServer, storages: Storages, at: str, kind: str, form: str
) -> None:
    """The real format is that of the extension, wherever it goes."""
    target, read = named(storages, kind, at)

    body = fine(uploading.prompt(pictures(2), convert_output={"format": form}, **target))

    found = read()
    valid(found, 2, form)
    assert_same_bytes(body["outputs"], found)


def test_several_storages_are_all_served(
    uploading: LiveServer, storages: Storages, at: str
) -> None:
    """The images are the first one's URLs; each output tells of all."""
    targets = {**volume(storages, at), **gcs(at), **http(storages, at), **s3(at)}

    body = fine(uploading.prompt(pictures(2), **targets))

    for found in (
        storages.in_s3(f"{at}/"),
        storages.in_puts(at),
        storages.in_gcs(f"{at}/"),
        below(storages.disk / at),
    ):
        assert_same_bytes(body["outputs"], found)
    assert body["images"] == [f"s3://{BUCKET}/{at}/{name}" for name in body["filenames"]]
    for output in body["outputs"]:
        kinds = [place["target"] for place in output["uploads"]]
        assert kinds == ["s3", "http_upload", "gcs_upload", "volume"]


def test_a_store_and_keys_of_the_callers(
    uploading: LiveServer, storages: Storages, at: str
) -> None:
    """The endpoint of the request is used, with the keys of the request; nothing repeats them."""
    secret = "canary-4711-of-the-caller"
    auth = {"type": "s3", "access_key_id": "theirs", "secret_access_key": secret}
    endpoint = storages.other.meta.endpoint_url
    before = len(storages.in_s3(""))

    answer = uploading.prompt(pictures(), **s3(at, endpoint=endpoint, auth=auth))

    assert_same_bytes(fine(answer)["outputs"], storages.in_s3(f"{at}/", storages.other))
    assert len(storages.in_s3("")) == before
    assert secret not in answer.text
    assert secret not in uploading.log.read_text()


def test_a_store_of_the_callers_takes_no_keys_of_the_operators(
    uploading: LiveServer, storages: Storages, at: str
) -> None:
    """An endpoint without keys of its own is refused before anything runs."""
    endpoint = storages.other.meta.endpoint_url

    body = refused(uploading.prompt(plain(), **s3(at, endpoint=endpoint)), 400, "invalid_payload")

    assert "auth" in body["hint"]


def test_a_link_that_anybody_can_fetch(uploading: LiveServer, storages: Storages, at: str) -> None:
    """`presign_s` gives a URL for clients that have no keys; the object tells what it is."""
    keys = {"presign_s": 600, "content_disposition": "attachment", "cache_control": "no-store"}

    body = fine(uploading.prompt(pictures(), **s3(at, **keys)))

    (url,), (name,) = body["images"], body["filenames"]
    got = httpx.get(url, trust_env=False)
    assert_same_bytes(body["outputs"], {name: got.content})
    assert got.headers["content-type"] == "image/png"
    assert got.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert got.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("count", [1, 4])
def test_presigned_urls(uploading: LiveServer, storages: Storages, at: str, count: int) -> None:
    """One for each output, in their order; a worker without any keys can store there."""
    keys = [f"{at}/{place} ü.png" for place in range(count)]
    urls = [
        storages.other.generate_presigned_url(
            "put_object", Params={"Bucket": BUCKET, "Key": key, "ContentType": "image/png"}
        )
        for key in keys
    ]
    target = {"url": urls[0]} if count == 1 else {"urls": urls}

    body = fine(uploading.prompt(pictures(count), presigned=target))

    found = storages.in_s3(f"{at}/", storages.other)
    shas = [hashlib.sha256(found[key.removeprefix(f"{at}/")]).hexdigest() for key in keys]
    assert shas == [one["sha256"] for one in body["outputs"]]
    assert all("Signature" not in image for image in body["images"])


@pytest.mark.nginx
def test_webdav(uploading: LiveServer, dav: Nginx, at: str) -> None:
    """nginx takes a batch, makes the folders, and gives the files back at their URLs."""
    target = {"url_prefix": f"http://127.0.0.1:{dav.port}/{at}/", "key": "münzen 猫/{filename}"}

    body = fine(uploading.prompt(pictures(4), id="with spaces", http_upload=target))

    assert_same_bytes(body["outputs"], below(dav.www / at / "münzen 猫"))
    for url, output in zip(body["images"], body["outputs"], strict=True):
        got = httpx.get(url, trust_env=False)
        assert hashlib.sha256(got.content).hexdigest() == output["sha256"]
        assert picture_of(got.content).size == (512, 512)


def reset_peak(pid: int) -> float:
    """Forget the highest resident memory so far, and give what it is now, in MiB."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_mb(pid)


def peak_mb(pid: int) -> float:
    """Give the highest resident memory in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


@only_embedded
@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["s3", "volume", pytest.param("dav", marks=pytest.mark.nginx)])
def test_a_large_video(
    request: pytest.FixtureRequest, uploading: LiveServer, storages: Storages, at: str, kind: str
) -> None:
    """200 MB arrive byte for byte, and the worker's memory does not know of them."""
    inputs = {"name": "clip.mp4", "size_bytes": VIDEO_BYTES, "seed": 4}
    graph = {"1": {"class_type": "TestNoiseFile", "inputs": inputs}}
    if kind == "dav":
        server: Nginx = request.getfixturevalue("dav")
        target: dict[str, Any] = {
            "http_upload": {"url_prefix": f"http://127.0.0.1:{server.port}/{at}"}
        }
        read: Any = lambda: below(server.www / at)  # noqa: E731
    else:
        target, read = named(storages, kind, at)
    assert uploading.process is not None
    fine(uploading.prompt(plain(), **target, id="before"))  # what an upload needs is loaded
    before = reset_peak(uploading.process.pid)

    body = fine(uploading.prompt(graph, id="large", **target))

    assert peak_mb(uploading.process.pid) - before < ROOM_MB
    (name,) = body["filenames"]
    assert body["outputs"][0]["bytes"] == VIDEO_BYTES
    assert_same_bytes(body["outputs"], {name: read()[name]})
    storages.s3.delete_object(Bucket=BUCKET, Key=f"{at}/{name}")
    shutil.rmtree(storages.disk / at, ignore_errors=True)


@only_embedded
def test_an_upload_does_not_wait_for_the_graph(
    uploading: LiveServer, storages: Storages, at: str
) -> None:
    """The first of two outputs is stored before the second one's node has begun."""
    slow = {"class_type": "TestSleep", "inputs": {"image": ["1", 0], "seconds": 1.5, "steps": 0}}
    graph: Graph = {"1": empty(), "2": save("1", "early"), "3": slow, "4": save("3", "late")}

    body = fine(uploading.prompt(graph, **s3(at)))

    early = next(one for one in body["outputs"] if "early" in one["filename"])
    assert early["uploads"][0]["ended_ms"] < body["stats"]["comfy_execution"]["nodes"]["4"]["start"]
    assert len(storages.in_s3(f"{at}/")) == 2


def test_what_a_storage_refused_can_be_had(
    uploading: LiveServer, storages: Storages, at: str
) -> None:
    """The error names the target; the files can be fetched, and brought to another storage."""
    gone = {"s3": {"bucket": "no-such-bucket", "prefix": f"{at}/"}}

    answer = uploading.prompt(pictures(2), id=at, **gone)

    body = refused(answer, 502, "upload_failed")
    assert (body["location"], body["blame"], body["retryable"]) == ("s3", "caller", False)
    assert "no-such-bucket" in body["error"]
    assert f"POST /jobs/{at}/redeliver" in body["hint"]
    outputs = uploading.get(f"/jobs/{at}").json()["outputs"]
    fetched = {one["filename"]: uploading.get(one["href"]).content for one in outputs}
    valid(fetched, 2)
    assert_same_bytes(outputs, fetched)

    again = fine(uploading.post(f"/jobs/{at}/redeliver", {**s3(at), **http(storages, at)}))
    assert again["images"] == [f"s3://{BUCKET}/{at}/{name}" for name in fetched]
    assert storages.in_s3(f"{at}/") == storages.in_puts(at) == fetched

    assert uploading.post(f"/jobs/{at}/redeliver", gone).status_code == 502
    begun(uploading.post(f"/jobs/{at}/redeliver", volume(storages, at, **{"async": True})))
    assert appeared(lambda: below(storages.disk / at), 2) == fetched


def test_how_a_redelivery_ended_is_told(uploading: LiveServer, storages: Storages, at: str) -> None:
    """With the job, also of one that nobody waited for."""
    prefer = {"Prefer": "respond-async"}
    job_id = begun(uploading.post("/prompt", {"prompt": pictures()}, headers=prefer))
    assert over(uploading, job_id)["redelivery"] is None

    begun(uploading.post(f"/jobs/{job_id}/redeliver", s3(at, **{"async": True})))

    appeared(lambda: storages.in_s3(f"{at}/"), 1)
    deadline = time.monotonic() + 20
    while (told := over(uploading, job_id)["redelivery"]) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    (name,) = storages.in_s3(f"{at}/")
    assert (told["status"], told["targets"]) == ("succeeded", ["s3"])
    assert told["images"] == [f"s3://{BUCKET}/{at}/{name}"]


def test_a_failed_upload_that_nobody_waits_for(uploading: LiveServer, at: str) -> None:
    """The job's record tells it: there is no webhook that would."""
    target = {"s3": {"bucket": "no-such-bucket", "prefix": "", "async": True}}

    job_id = begun(uploading.prompt(pictures(), **target))

    record = over(uploading, job_id)
    assert (record["status"], record["error"]["code"]) == ("failed", "upload_failed")
    valid({one["filename"]: uploading.get(one["href"]).content for one in record["outputs"]}, 1)
