"""Storages that outputs are brought to, all on 127.0.0.1, read back by clients of their own."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import boto3
import huggingface_hub
from azure.storage.blob import BlobServiceClient
from live import free_port
from receiver import SECRET
from sources.google import Gcs, service_account, storage, tokens
from sources.hub import Hub, hub
from sources.puts import Store, storing
from sources.stores import ACCOUNT_KEY, BlobStore, blob_store, s3_store
from sources.threaded import threaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from live import LiveServer

BUCKET = "results"
REPO = "me/results"
HF_TOKEN = "hf_of-the-operator"
GOOGLE_TOKEN = "google-of-the-operator"
Files = dict[str, bytes]
"""By name, without the folder or prefix that was asked for."""


@dataclass(frozen=True, slots=True)
class Storages:
    """Every storage, and what is in it.

    Attributes:
        s3: a client of the operator's store; `other` of a second one, with keys of its own.
        blobs: None where Azure's emulator is not installed.
        puts: takes files by PUT.
        disk: the volume.
    """

    s3: Any
    other: Any
    hub: Hub
    puts: Store
    gcs: Gcs
    disk: Path
    home: Path = field(repr=False)
    env: dict[str, str] = field(repr=False)
    blobs: BlobStore | None = None

    def in_s3(self, prefix: str, client: Any = None) -> Files:
        """Read the objects below a prefix."""
        client = client or self.s3
        found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return {
            one["Key"].removeprefix(prefix): client.get_object(Bucket=BUCKET, Key=one["Key"])[
                "Body"
            ].read()
            for one in found
        }

    def in_azure(self, prefix: str) -> Files:
        """Read the blobs below a prefix."""
        assert self.blobs is not None
        with BlobServiceClient(self.blobs.url, credential=ACCOUNT_KEY) as service:
            container = service.get_container_client(BUCKET)
            return {
                name.removeprefix(prefix): container.download_blob(name).readall()
                for name in container.list_blob_names(name_starts_with=prefix)
            }

    def in_hub(self, folder: str, kind: str = "dataset") -> Files:
        """List the files of a folder by the hub's own client, and download them."""
        api = huggingface_hub.HfApi(endpoint=self.hub.endpoint, token=HF_TOKEN)
        paths = [p for p in api.list_repo_files(REPO, repo_type=kind) if p.startswith(f"{folder}/")]
        return {path.removeprefix(f"{folder}/"): self._downloaded(path, kind) for path in paths}

    def _downloaded(self, path: str, kind: str) -> bytes:
        cache = self.home / f"cache-{time.monotonic_ns()}"
        name = huggingface_hub.hf_hub_download(
            REPO,
            path,
            repo_type=kind,
            endpoint=self.hub.endpoint,
            token=HF_TOKEN,
            cache_dir=cache,
        )
        with open(name, "rb") as file:
            return file.read()

    def in_puts(self, folder: str) -> Files:
        """Give the files that were PUT below a folder."""
        start = f"/{folder}/"
        found = {unquote(path): body for path, body in dict(self.puts.files).items()}
        return {p.removeprefix(start): body for p, body in found.items() if p.startswith(start)}

    def in_gcs(self, prefix: str) -> Files:
        """Give the objects below a prefix."""
        found = {name: body for (_, name), body in dict(self.gcs.files).items()}
        return {n.removeprefix(prefix): body for n, body in found.items() if n.startswith(prefix)}


@contextlib.contextmanager
def storages_in(home: Path) -> Iterator[Storages]:
    """Run all of them for the time of a block."""
    with contextlib.ExitStack() as open_:
        enter = open_.enter_context
        endpoints = [enter(s3_store()).endpoint, enter(_store_apart())]
        the_hub, puts = enter(threaded(hub())), enter(threaded(storing()))
        gcs = enter(threaded(storage(GOOGLE_TOKEN)))
        token_url, _ = enter(threaded(tokens(GOOGLE_TOKEN)))
        blobs = None
        if shutil.which("azurite-blob"):
            blobs = enter(blob_store(home / "azurite"))
            with BlobServiceClient(blobs.url, credential=ACCOUNT_KEY) as service:
                service.create_container(BUCKET)
        the_hub.repos |= {f"datasets/{REPO}", REPO}
        the_hub.secrets |= dict.fromkeys(the_hub.repos, HF_TOKEN)
        for kind in ("datasets/", ""):
            the_hub.put(f"{kind}{REPO}", ".gitattributes", b"")
        disk = home / "disk"
        disk.mkdir(exist_ok=True)
        env = {
            "URL_ALLOW_HOSTS": "127.0.0.1",
            "WEBHOOK_SECRET": SECRET,
            "ALLOW_VOLUMES": str(disk),
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoints[0],
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "HF_ENDPOINT": the_hub.endpoint,
            "HF_TOKEN": HF_TOKEN,
            "HF_HUB_DISABLE_XET": "1",  # its protocol has no double
            "GOOGLE_APPLICATION_CREDENTIALS": str(service_account(home, token_url)),
            "STORAGE_EMULATOR_HOST": gcs.url,
        }
        if blobs is not None:
            env["AZURE_STORAGE_CONNECTION_STRING"] = blobs.connection_string
        clients = [enter(contextlib.closing(s3_client(one))) for one in endpoints]
        for client in clients:
            client.create_bucket(Bucket=BUCKET)
        yield Storages(*clients, the_hub, puts, gcs, disk, home, env, blobs)


@contextlib.contextmanager
def _store_apart() -> Iterator[str]:
    """Run a store in a process of its own: those of one process have the same objects."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process:
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def s3_client(endpoint: str) -> Any:
    """Make a client of a store, with keys that it takes."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def appeared(find: Callable[[], Files], count: int, limit_s: float = 30.0) -> Files:
    """Wait until as many files are there; their upload is nobody's answer."""
    deadline = time.monotonic() + limit_s
    while len(found := find()) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(found) == count
    return found


def over(server: LiveServer, job_id: str, limit_s: float = 30.0) -> dict[str, Any]:
    """Wait until a job is over, and give its record."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        body: dict[str, Any] = server.get(f"/jobs/{job_id}").json()
        if body["finished_at"] is not None:
            return body
        time.sleep(0.05)
    raise AssertionError(f"{job_id} is not over: {body}")


def assert_same_bytes(outputs: list[dict[str, Any]], found: Files) -> None:
    """Compare what a server says of its outputs with the files that are in a storage."""
    told = {one["filename"]: (one["bytes"], one["sha256"]) for one in outputs}
    assert told == {
        name: (len(body), hashlib.sha256(body).hexdigest()) for name, body in found.items()
    }
