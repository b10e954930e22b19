"""`POST /download` as comfyui-api's clients use it (its suite's rows 61-68), and its refusals."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from contract.file_server import FileServer, Trap
from contract.test_openapi import assert_as_documented
from live import COMFY_HOME, LiveServer, live_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CANARY = "canary4711"
BINARY = "application/octet-stream"
RECORD_KEYS = {
    "id", "url", "model_type", "filename", "status", "done", "total", "bytes_per_s", "size",
    "duration", "error",
}  # fmt: skip


def weights(value: int = 0, count: int = 1000) -> bytes:
    """Give a whole safetensors file of small numbers."""
    entry = {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}
    header = json.dumps({"x": entry}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + bytes([value]) * count


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.comfyui] if name == "comfyui" else [])
        for name in ("embedded", "comfyui")
    ],
)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """Give a server whose model folders and cache are its own."""
    assert request.param == "embedded" or COMFY_HOME
    home = tmp_path_factory.mktemp(f"download-{request.param}")
    (home / "models").mkdir()
    with live_server(home, request.param, **own_folders(home)) as running:
        yield running


def own_folders(home: Path) -> dict[str, str]:
    """Name the folders that files are fetched to."""
    return {
        "MODEL_DIR": str(home / "models"),
        "CACHE_DIR": str(home / "cache"),
        "URL_ALLOW_HOSTS": "127.0.0.1",
    }


def wanted(server: LiveServer, url: str, **keys: Any) -> httpx.Response:
    """Ask for a file and wait for it, unless told otherwise."""
    return server.post("/download", {"url": url, "model_type": "loras", "wait": True, **keys})


def completed(answer: httpx.Response) -> dict[str, Any]:
    """Give the body of an answer that says the file is there."""
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body.get("status")) == (200, "completed"), body
    return body


def refused(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """Give the body of a refusal; `error` is what comfyui-api's clients read."""
    body: dict[str, Any] = answer.json()
    assert answer.status_code == status, body
    assert isinstance(body["error"], str)
    return body


def ended(server: LiveServer, download_id: str) -> dict[str, Any]:
    """Wait until a download has ended, and give its record."""
    for _ in range(2000):
        record: dict[str, Any] = server.get(f"/downloads/{download_id}").json()
        if record["status"] != "started":
            return record
    raise AssertionError(record)


def lora(server: LiveServer, name: str) -> Path:
    """Give the place of a file among the loras."""
    return server.home / "models" / "loras" / name


@pytest.mark.parametrize("keys", [{"wait": False}, {}], ids=["row 61", "row 62"])
def test_rows_61_and_62_in_the_background(
    server: LiveServer, source: FileServer, keys: dict[str, Any]
) -> None:
    """Answered at once with what was asked, without size and duration; then the file is there."""
    url = source.put("/background.safetensors", weights(1), BINARY)

    answer = server.post("/download", {"url": url, "model_type": "loras", **keys})

    body = answer.json()
    assert answer.status_code == 202, body
    assert (body["status"], body["url"], body["model_type"]) == ("started", url, "loras")
    assert body["filename"] == "background.safetensors"
    assert set(body) == {"id", "url", "model_type", "filename", "status"}
    record = ended(server, body["id"])
    assert (record["status"], record["size"]) == ("completed", len(weights(1)))
    assert record["error"] is None


def test_row_63_waiting_with_a_file_name(server: LiveServer, source: FileServer) -> None:
    """The answer has size and duration, and the file is where the engine lists it."""
    url = source.put("/named.safetensors", weights(2), BINARY)

    body = completed(wanted(server, url, filename="my name.safetensors"))

    assert body["size"] == len(weights(2))
    assert body["duration"] >= 0
    assert isinstance(body["duration"], float)
    assert body["filename"] == "my name.safetensors"
    assert lora(server, "my name.safetensors").read_bytes() == weights(2)
    assert "my name.safetensors" in server.get("/models").json()["loras"]


@pytest.mark.parametrize(
    ("path", "name"),
    [("/row64.safetensors", "row64.safetensors"), ("/a/b%20c.safetensors?x=1", "b c.safetensors")],
)
def test_row_64_the_name_is_the_urls_last_part(
    server: LiveServer, source: FileServer, path: str, name: str
) -> None:
    """Escapes undone, without the query."""
    source.put(path.partition("?")[0], weights(3), BINARY)
    assert completed(wanted(server, source.url(path)))["filename"] == name
    assert lora(server, name).is_file()


def test_a_url_without_a_suffix_gets_one(server: LiveServer, source: FileServer) -> None:
    """Else the engine would not list the file."""
    url = source.put("/api/models/128713", weights(4), BINARY)
    name = completed(wanted(server, url))["filename"]
    assert name.endswith(".safetensors")
    assert name in server.get("/models").json()["loras"]


def test_row_65_an_unknown_folder(server: LiveServer, source: FileServer) -> None:
    """The refusal names the folders that there are, the nearest first."""
    url = source.put("/x.safetensors", weights(), BINARY)
    for wait in (True, False):
        body = refused(wanted(server, url, model_type="lora", wait=wait))
        assert body["location"] == "model_type"
        assert body["details"]["folders"][0] == "loras"


@pytest.mark.parametrize("url", ["not-a-valid-url", "http://", "loras/x.safetensors"])
def test_row_66_what_is_no_url(server: LiveServer, url: str) -> None:
    """It is refused, waited for or not."""
    for wait in (True, False):
        assert refused(wanted(server, url, wait=wait))["location"] == "url"


def test_row_67_a_file_that_is_not_there(server: LiveServer, source: FileServer) -> None:
    """The reason stands where comfyui-api has it; in the background the record has it."""
    url = source.url("/nothing-here.safetensors")

    body = refused(wanted(server, url))
    assert body["error"].startswith("Error downloading file: Not Found")

    started = wanted(server, url, wait=False)
    assert started.status_code == 202
    record = ended(server, started.json()["id"])
    assert record["status"] == "failed"
    assert record["error"]["error"] == body["error"]


def test_row_68_loras(server: LiveServer, source: FileServer) -> None:
    """The folder is echoed."""
    url = source.put("/row68.safetensors", weights(5), BINARY)
    assert completed(wanted(server, url))["model_type"] == "loras"


@pytest.mark.parametrize(("called", "name"), [("unet", "diffusion_models"), ("vae", "vae")])
def test_a_folder_by_its_name_on_disk(
    server: LiveServer, source: FileServer, called: str, name: str
) -> None:
    """comfyui-api's callers know the folders' names on disk; it is made when missing."""
    url = source.put(f"/{called}.safetensors", weights(6), BINARY)
    assert completed(wanted(server, url, model_type=called))["model_type"] == called
    assert f"{called}.safetensors" in server.get("/models").json()[name]


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x", "a/b.safetensors", "..", "a\\b", "x\u2044y\uff0f.ckpt", ""],
)
def test_a_file_name_is_a_leaf(server: LiveServer, source: FileServer, name: str) -> None:
    """It is refused before anything is asked for, and nothing appears anywhere."""
    url = source.put("/leaf.safetensors", weights(7), BINARY)
    before = {path for path in server.home.rglob("*") if path.is_file()}
    asked = len(source.asked)

    body = refused(wanted(server, url, filename=name))

    assert body["location"] == "filename"
    assert len(source.asked) == asked
    assert {path for path in server.home.rglob("*") if path.is_file()} == before


FAULTS = {
    "wrong hash": (weights(8), BINARY, {"sha256": "0" * 64}),
    "wrong size": (weights(8), BINARY, {"size": 5}),
    "login page": (b"<!doctype html><title>Log in</title>", "text/html", {}),
    "error as json": (b'{"error": "log in"}', "application/json", {}),
    "truncated": (weights(8)[:-100], BINARY, {}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_the_file_never_appears(
    server: LiveServer, source: FileServer, fault: str
) -> None:
    """Neither under its name nor in part; the same request with the right file works."""
    content, mime, keys = FAULTS[fault]
    name = f"{fault.replace(' ', '-')}.safetensors"
    url = source.put(f"/{name}", content, mime)

    body = refused(wanted(server, url, **keys))

    assert body["error"].startswith("Error downloading file: ")
    assert body["blame"] == "caller"
    assert not lora(server, name).exists()
    assert not list((server.home / "models").rglob(".*.part"))
    source.put(f"/{name}", weights(8), BINARY)
    right = hashlib.sha256(weights(8)).hexdigest()
    completed(wanted(server, url, sha256=right, size=len(weights(8))))
    assert lora(server, name).read_bytes() == weights(8)


def test_a_source_that_wants_credentials_is_told_as_such(
    server: LiveServer, source: FileServer
) -> None:
    """The code tells it from a file that is not there."""
    source.put("/locked.safetensors", b"", "text/plain", status=401)
    body = refused(wanted(server, source.url("/locked.safetensors")))
    assert body["code"] == "access_denied"
    assert "Error downloading file: Unauthorized" in body["error"]


def test_two_urls_with_one_basename(server: LiveServer, source: FileServer) -> None:
    """The second never becomes the first's bytes: it is a 409, and fine by another name."""
    first = source.put("/one/same.safetensors", weights(9), BINARY)
    second = source.put("/two/same.safetensors", weights(10), BINARY)

    completed(wanted(server, first))
    body = refused(wanted(server, second), 409)
    other = completed(wanted(server, second, filename="other.safetensors"))

    assert (body["code"], body["location"]) == ("name_taken", "filename")
    assert "same.safetensors" in body["error"]
    assert lora(server, "same.safetensors").read_bytes() == weights(9)
    assert lora(server, other["filename"]).read_bytes() == weights(10)
    assert completed(wanted(server, first))["filename"] == "same.safetensors"


def test_a_hundred_callers_of_one_url_are_one_request(
    server: LiveServer, source: FileServer
) -> None:
    """The source is asked once; all are answered."""
    path = f"/popular-{server.engine}.safetensors"
    url = source.put(path, weights(11, 300_000), BINARY)
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: wanted(server, url), range(100)))

    assert {completed(answer)["size"] for answer in answers} == {len(weights(11, 300_000))}
    assert [asked for asked, _ in source.asked].count(path) == 1


@pytest.mark.parametrize("wait", [True, False])
def test_a_private_address_is_refused_before_anything_is_started(
    strict_server: LiveServer, wait: bool
) -> None:
    """Nothing is dialled, and no record is made."""
    before = strict_server.get("/downloads").json()
    with Trap("127.0.0.1") as trap:
        url = f"http://127.0.0.1:{trap.port}/x.safetensors"
        body = refused(wanted(strict_server, url, wait=wait))
        assert body["code"] == "url_not_allowed"
        assert not trap.dialled()
    assert strict_server.get("/downloads").json() == before
    for url in ("ftp://h/x", "file:///etc/passwd", "/etc/passwd"):
        refused(wanted(strict_server, url, wait=wait))


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({"url": "https://h/x"}, "model_type"),
        ({"model_type": "loras"}, "url"),
        ({"url": "https://h/x", "model_type": "loras", "file_name": "x"}, "file_name"),
        ({"url": "https://h/x", "model_type": "loras", "sha256": "x"}, "sha256"),
        ({"url": "https://h/x", "model_type": "loras", "auth": {"type": "none"}}, "auth"),
        ([], None),
        (None, None),
    ],
    ids=str,
)
def test_bodies_that_do_not_fit(server: LiveServer, body: Any, location: str | None) -> None:
    """The place of the fault is told; comfyui-api says `Bad Request` alone."""
    assert refused(server.post("/download", body))["location"] == location


def test_a_download_can_be_cancelled(server: LiveServer) -> None:
    """Its record says so; whoever asks for it again starts anew."""
    with Trap("127.0.0.1") as trap:
        url = f"http://127.0.0.1:{trap.port}/slow.safetensors"
        ids = [wanted(server, url, wait=False).json()["id"] for _ in range(2)]
        assert server.get(f"/downloads/{ids[0]}").json()["status"] == "started"
        told = server.post(f"/downloads/{ids[0]}/cancel", None).json()
        deleted = httpx.delete(f"{server.url}/downloads/{ids[1]}", trust_env=False).json()
    for record in (told, deleted, server.get(f"/downloads/{ids[0]}").json()):
        assert (record["status"], record["error"]["code"]) == ("failed", "cancelled")
    assert refused(server.get("/downloads/nobody"), 404)["code"] == "not_found"


def test_no_secret_comes_back(server: LiveServer, source: FileServer) -> None:
    """Not of the URL, not of the auth: in no answer, record, log line, file or file name."""
    source.put("/secret.safetensors", weights(12), BINARY)
    urls = [
        source.url("/secret.safetensors", f"user:{CANARY}@"),
        source.url(f"/secret.safetensors?token={CANARY}"),
        source.url(f"/secret-missing.safetensors?X-Amz-Signature={CANARY}#{CANARY}"),
        source.url("/secret.safetensors"),
    ]
    auths: list[dict[str, str]] = [
        {"type": "bearer", "token": CANARY},
        {"type": "basic", "username": "user", "password": CANARY},
        {"type": "header", "header_name": "X-Key", "header_value": CANARY},
        {"type": "query", "query_param": "key", "query_value": CANARY},
        {"type": "s3", "access_key_id": CANARY, "secret_access_key": CANARY},
        {"type": "bearer", "token": f"{CANARY}\n"},
    ]
    said = [wanted(server, url, wait=wait).text for url in urls for wait in (True, False)]
    said += [wanted(server, urls[-1], auth=auth).text for auth in auths]
    said += [server.get("/downloads").text, server.get("/health").text, server.log.read_text()]

    assert any(CANARY in f"{path} {headers}" for path, headers in source.asked)
    assert not [text for text in said if CANARY in text]
    for path in server.home.rglob("*"):
        assert CANARY not in path.name
        assert not path.is_file() or CANARY.encode() not in path.read_bytes()


def test_answers_are_as_documented(server: LiveServer, source: FileServer) -> None:
    """The document has every key and status of these routes."""
    document = server.get("/openapi.json").json()
    url = source.put("/documented.safetensors", weights(13), BINARY)
    for answer in (
        wanted(server, url),
        wanted(server, url, wait=False),
        wanted(server, "nothing"),
        wanted(server, source.put("/2/documented.safetensors", weights(14), BINARY)),
    ):
        status = answer.status_code
        assert_as_documented(document, "/download", "post", status, answer.json())
    listing = server.get("/downloads")
    assert_as_documented(document, "/downloads", "get", 200, listing.json())
    record = listing.json()["downloads"][0]
    assert set(record) == RECORD_KEYS
    assert_as_documented(document, "/downloads/{id}", "get", 200, record)
    unknown = server.get("/downloads/nobody")
    assert_as_documented(document, "/downloads/{id}", "get", 404, unknown.json())


def test_every_folder_of_the_engine_is_listed(server: LiveServer) -> None:
    """comfyui-api answers 500 on a stock install, and leaves out what came later."""
    answer = server.get("/models")
    names = httpx.get(f"{server.engine_url}/models", trust_env=False).json()
    assert answer.status_code == 200
    assert set(answer.json()) == set(names) - {"custom_nodes"}
    assert {"text_encoders", "diffusion_models", "loras"} <= set(names)


def test_a_download_asked_for_while_the_engine_boots(tmp_path: Path, source: FileServer) -> None:
    """It is taken at once, waits for the boot, and ends."""
    (tmp_path / "models").mkdir()
    url = source.put("/early.safetensors", weights(15), BINARY)
    booting = {**own_folders(tmp_path), "COMFY_ARGS": "--test-boot-seconds 1.5"}
    server = LiveServer(tmp_path, "embedded", **booting)
    try:
        server.start(ready=False)
        assert server.get("/ready").status_code == 503
        early = wanted(server, url, wait=False)
        unknown = wanted(server, url, wait=False, model_type="nowhere")
        assert (early.status_code, unknown.status_code) == (202, 202)
        assert completed(wanted(server, url))["size"] == len(weights(15))
        assert ended(server, early.json()["id"])["status"] == "completed"
        assert ended(server, unknown.json()["id"])["error"]["location"] == "model_type"
    finally:
        server.stop()
