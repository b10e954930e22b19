"""What callers and the operator entrust to the server is seen by whom it is meant for, alone."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from behaviour.driving import assert_error, begin, later, wait_phase
from behaviour.file_server import png
from behaviour.graphs import fault, load, node, picture, save, slow
from contract.file_server import FileServer, file_server
from contract.packs import install_pack
from sources.host import safetensors
from sources.stores import s3_store, threaded_hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from live import LiveServer
    from sources.hub import Hub
    from sources.stores import S3Store

    RequestsOf = Callable[["Places"], list[tuple[str, dict[str, Any]]]]

BINARY = "application/octet-stream"
CANARY = "canary-5f1c9d07"
FORMS = (
    CANARY[::-1].encode(),
    quote(CANARY, safe="").replace("-", "%2D").encode(),
    base64.b64encode(CANARY.encode()),
)
SECRET = {"api_key_comfy_org": CANARY, "auth_token_comfy_org": CANARY + "-token"}


def found_in(place: str, data: bytes | str) -> list[str]:
    """Name the place if the canary is in it, plainly or in a header of basic auth."""
    raw = data.encode() if isinstance(data, str) else data
    basic = base64.b64encode(f"me:{CANARY}".encode())
    return [place] if any(form in raw for form in (CANARY.encode(), *FORMS, basic)) else []


def found_on_disk(server: LiveServer) -> list[str]:
    """Name every file whose name or content has the canary in it."""
    found = []
    # Unlike rglob, walk does not mind folders that go while it looks.
    for folder, _, names in os.walk(server.home):
        for path in (Path(folder, name) for name in names):
            found += found_in(f"name of {path}", str(path))
            with contextlib.suppress(FileNotFoundError):
                found += found_in(str(path), path.read_bytes())
    return found


@pytest.mark.timeout(240)
def test_partner_keys_are_told_to_nobody(start_server, engine: str) -> None:
    """Not in answers, errors, events, job records, health, logs or files, whatever happens."""
    server = start_server(engine, LOG_LEVEL="trace")
    found: list[str] = []
    graphs = {"good": picture(), "bad": {"1": {"class_type": "Nope", "inputs": {}}}}
    if engine == "embedded":
        graphs |= {"raises": fault("TestRaise", message="x"), "dies": fault("TestExit", code=3)}
    for name, graph in graphs.items():
        answer = server.prompt(graph, id=name, extra_data=SECRET)
        found += found_in(f"answer {name}", answer.content)
        if answer.status_code == 200:
            found += found_in("picture", base64.b64decode(answer.json()["images"][0]))
        found += found_in(f"job {name}", server.get(f"/jobs/{name}").content)
        found += found_in(f"events {name}", server.get(f"/jobs/{name}/events").content)
        server.wait_for("/ready", 60)
    job = begin(server, "held", slow(engine, 20), extra_data=SECRET)
    wait_phase(server, "held", "running")
    found += found_in("running job", server.get("/jobs/held").content)
    files = [p for p in server.home.rglob("*") if p.is_file()]
    found += [str(p) for p in files if found_in("", p.read_bytes())]
    server.post("/interrupt", {"id": "held"})
    found += found_in("cancelled", job.result(30).content)
    for path in ("/health", "/ready", "/docs/json", "/models"):
        found += found_in(path, server.get(path).content)
    body = assert_error(
        server.post("/prompt", {"prompt": {}, "extra_data": CANARY}), 400, "invalid_payload"
    )
    found += found_in("refused payload", str(body))
    raw = b'{"prompt": {}, "extra_data": {"api_key_comfy_org": "' + CANARY.encode() + b'"'
    headers = {"Content-Type": "application/json"}
    broken = httpx.post(f"{server.url}/prompt", content=raw, headers=headers, trust_env=False)
    found += found_in("broken JSON", broken.content)
    server.stop()
    found += found_in("log", server.log.read_bytes())
    found += [
        str(p) for p in server.home.rglob("*") if p.is_file() and found_in("", p.read_bytes())
    ]
    assert found == []


AUTHS: dict[str, dict[str, str]] = {
    "none": {},
    "bearer": {"type": "bearer", "token": CANARY},
    "basic": {"type": "basic", "username": "me", "password": CANARY},
    "header": {"type": "header", "header_name": "X-Key", "header_value": CANARY},
    "query": {"type": "query", "query_param": "key", "query_value": CANARY},
    "s3": {
        "type": "s3",
        "access_key_id": f"AK{CANARY}",
        "secret_access_key": CANARY,
        "session_token": CANARY,
    },
}
OPERATORS = {
    "HF_TOKEN": f"hf_{CANARY}",
    "CIVITAI_API_TOKEN": CANARY,
    "HTTP_AUTH_HEADER_NAME": "X-Operator",
    "HTTP_AUTH_HEADER_VALUE": CANARY,
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": f"AK{CANARY}",
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "AWS_SESSION_TOKEN": CANARY,
    "AZURE_STORAGE_ACCOUNT": "devstoreaccount1",
    "AZURE_STORAGE_KEY": base64.b64encode(CANARY.encode()).decode(),
    "AZURE_STORAGE_SAS_TOKEN": f"sv=2021-08-06&sig={CANARY}",
    "AZURE_CLIENT_SECRET": CANARY,
}
NODE_PACKS_USE = {"HF_TOKEN", "CIVITAI_API_TOKEN"}
"""What ComfyUI's process may have of that."""


class Places:
    """Where files are: hosts that have them, refuse them, fall silent, or are not there.

    Attributes:
        good, bad: URLs that lead to a picture, and others; with secrets wherever one may stand.
        models: URLs that lead to a model, likewise; without other rights from the third on.
        no_endpoint: one that no request can be sent to.
        env: what the operator sets, secrets all over.
    """

    def __init__(self, files: FileServer, s3: S3Store, hub: Hub, silent_port: int) -> None:
        body = png(24, 16)
        files.put("/a.png", body, "image/png")
        files.put("/locked.png", b"", "text/plain", 401)
        files.put("/devstoreaccount1/in/a.png", body, "image/png")
        files.redirect("/led.png", files.url(f"/none.png?sig={CANARY}", f"me:{CANARY}@"))
        files.redirect("/astray.png", f"ftp://me:{CANARY}@127.0.0.1/?sig={CANARY}")
        self._own = f"me:{CANARY}@"
        hub.put("me/own", "a.png", body)
        hub.secrets["me/own"] = OPERATORS["HF_TOKEN"]
        self.files = files
        self.env = {
            **OPERATORS,
            "URL_ALLOW_HOSTS": "127.0.0.1",
            "HTTP_AUTH_ALLOWED_ORIGINS": files.url(""),
            "AWS_ENDPOINT_URL": s3.endpoint,
            "HF_ENDPOINT": hub.endpoint,
            "FETCH_TIMEOUT_S": "3",
            "DOWNLOAD_TIMEOUT_S": "3",
        }
        self.good = [self._secret("/a.png"), s3.put("own", "a.png", body)]
        self.good += [hub.put("me/own", "a.png", body)]
        self.bad = [self._secret(path) for path in ("/none.png", "/locked.png")]
        self.bad += [files.url("/led.png"), files.url("/astray.png"), "s3://own/none.png"]
        self.bad += [files.url("/devstoreaccount1/in/a.png"), f"{hub.endpoint}/me/own/raw/main/b"]
        hosts = (f"127.0.0.1:{silent_port}", "127.0.0.1:1", "nowhere.invalid", "169.254.169.254")
        self.bad += [f"http://{self._own}{host}/a.png?sig={CANARY}" for host in hosts]
        self.bad += [f"http:/{self._own}x/?sig={CANARY}", f"ftp://{self._own}x/?sig={CANARY}"]
        self.no_endpoint = f"http://{self._own} /?sig={CANARY}"
        self._put_models(s3, hub)

    def _put_models(self, s3: S3Store, hub: Hub) -> None:
        for seed, name in enumerate(("m", "before", "after", "named")):
            self.files.put(f"/{name}.safetensors", safetensors(300, seed=seed), BINARY)
        hub.put("me/own", "h.safetensors", safetensors(300, seed=11))
        self.models = [self._secret("/m.safetensors"), self._secret("/m.safetensors?x=1&again")]
        self.models += [s3.put("own", "s.safetensors", safetensors(300, seed=10))]
        self.models += [f"{hub.endpoint}/me/own/resolve/main/h.safetensors"]

    def manifest(self) -> str:
        """Give a manifest whose URLs have secrets: models that come, one that does not."""
        before, after, missing, named = (
            {"url": self._secret(f"/{name}.safetensors"), "folder": "test_models"}
            for name in ("before", "after", "missing", "named")
        )
        models = {"before_start": [before], "after_start": [after, missing]}
        return json.dumps({"models": models, "catalogue": {"the-named": named}})

    def _secret(self, path: str) -> str:
        return self.files.url(f"{path}?sig={CANARY}", self._own)


@pytest.fixture
def places() -> Iterator[Places]:
    """Run the hosts."""
    with (
        file_server() as files,
        s3_store() as s3,
        threaded_hub() as hub,
        socket.create_server(("127.0.0.1", 0), backlog=64) as silent,
    ):
        yield Places(files, s3, hub, silent.getsockname()[1])


def media_requests(places: Places) -> list[tuple[str, dict[str, Any]]]:
    """Give requests that load a picture from each place with each way to show the right to it."""
    return [
        ("/prompt", {"prompt": load(url), **credentials(auth), "extra_data": SECRET})
        for url in [*places.good, *places.bad]
        for auth in AUTHS.values()
    ]


def model_requests(places: Places) -> list[tuple[str, dict[str, Any]]]:
    """Give graphs that load a model from each place, and from the manifest's catalogue."""
    requests = [
        ("/prompt", {"prompt": load_model(url), **credentials(auth)})
        for url in [*places.models, *places.bad]
        for auth in [*AUTHS.values(), {**AUTHS["s3"], "endpoint": places.no_endpoint}]
    ]
    return [*requests, ("/prompt", {"prompt": load_model("the-named"), "extra_data": SECRET})]


def download_requests(places: Places) -> list[tuple[str, dict[str, Any]]]:
    """Give downloads from each place that are waited for, with a name of their own or without."""
    common = {"model_type": "test_models", "wait": True}
    return [
        ("/download", {"url": url, **common, **named, **({"auth": auth} if auth else {})})
        for url in [*places.models, *places.bad]
        for auth in [*AUTHS.values(), {**AUTHS["s3"], "endpoint": places.no_endpoint}]
        for named in ({}, {"filename": "x.pt"})
    ]


def load_model(name: str) -> dict[str, Any]:
    """Give a graph that shows a model's hash as a colour."""
    return {"1": node("TestPackLoader", thing=name), "9": save("1")}


def credentials(auth: dict[str, str]) -> dict[str, Any]:
    """Give the key of a request."""
    return {"credentials": [{"url_pattern": "**", "auth": auth}]} if auth else {}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("requests_of", [media_requests, model_requests, download_requests])
def test_secrets_of_sources_are_told_to_nobody(
    start_server, engine: str, places: Places, tmp_path: Path, requests_of: RequestsOf
) -> None:
    """Neither where it went well nor where it failed, at the lowest log level."""
    home = tmp_path / "server-0"
    env = {**places.env, "MANIFEST_JSON": places.manifest(), "MODEL_DIR": str(home / "models")}
    if engine == "comfyui":
        env["COMFY_ARGS"] = install_pack(home, home / "models")
    server = start_server(engine, LOG_LEVEL="debug", **env)
    requests = [
        (path, {**body, "id": f"job{number}"})
        for number, (path, body) in enumerate(requests_of(places))
    ]
    found: list[str] = []
    statuses = set()
    for at in range(0, len(requests), 16):
        batch = requests[at : at + 16]
        answers = [later(server.post, path, body) for path, body in batch]
        found += found_on_disk(server)
        for (path, body), answer in zip(batch, answers, strict=True):
            response = answer.result(60)
            statuses.add(response.status_code)
            place = f"{path} {body['id']} {response.status_code}"
            found += found_in(place, response.content + str(response.headers).encode())
            found += found_in(f"record of {place}", server.get(f"/jobs/{body['id']}").content)
            events = server.get(f"/jobs/{body['id']}/events")
            found += found_in(f"events of {place}", events.content)
    for url in places.good:
        assert server.prompt(load(url)).status_code == 200, url
    for name in (*places.models[2:], "the-named"):
        assert server.prompt(load_model(name)).status_code == 200, name
    assert statuses - {409} == {200, 400}
    for path in ("/health", "/ready", "/docs/json", "/models", "/downloads"):
        found += found_in(path, server.get(path).content)
    refused = {"prompt": {}, "credentials": [{"url_pattern": CANARY, "auth": {"type": CANARY}}]}
    found += found_in("refused", server.post("/prompt", refused).content)
    assert names_with_secrets(server.engine_pid()) <= NODE_PACKS_USE
    server.stop()
    found += found_on_disk(server)
    assert found == []


def names_with_secrets(pid: int) -> set[str]:
    """Give the names of what a process has in its environment with the canary in it."""
    texts = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return {text.partition(b"=")[0].decode() for text in texts if found_in("", text)}
