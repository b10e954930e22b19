"""Stores that run for real on 127.0.0.1: S3 by moto, Azure by Azurite, and the hub's double."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas
from moto.server import ThreadedMotoServer
from sources.hub import Hub, hub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACCOUNT = "devstoreaccount1"
# The emulator's own, the same everywhere.
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@dataclass(frozen=True, slots=True)
class S3Store:
    """A store that speaks S3.

    Attributes:
        endpoint: what AWS_ENDPOINT_URL would be.
    """

    endpoint: str
    _client: Any = field(repr=False)

    def put(self, bucket: str, key: str, body: bytes) -> str:
        """Add an object, and its bucket; give its URL."""
        self._client.create_bucket(Bucket=bucket)
        self._client.put_object(Bucket=bucket, Key=key, Body=body)
        return f"s3://{bucket}/{key}"


@contextlib.contextmanager
def s3_store() -> Iterator[S3Store]:
    """Run a store for the time of a block; it takes any keys."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        yield S3Store(endpoint, client)
        client.close()
    finally:
        server.stop()


@dataclass(frozen=True, slots=True)
class BlobStore:
    """An account of Azure's emulator.

    Attributes:
        url: of the account.
    """

    url: str

    @property
    def connection_string(self) -> str:
        """Give what AZURE_STORAGE_CONNECTION_STRING would be."""
        start = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY}"
        return f"{start};BlobEndpoint={self.url};"

    def put(self, container: str, blob: str, body: bytes) -> str:
        """Add a blob, and its container; give its URL."""
        with BlobServiceClient(self.url, credential=ACCOUNT_KEY) as service:
            folder = service.create_container(container)
            folder.upload_blob(blob, body)
        return f"{self.url}/{container}/{blob}"

    def token(self, container: str) -> str:
        """Give a SAS token that may read a container for an hour."""
        return generate_container_sas(
            ACCOUNT,
            container,
            account_key=ACCOUNT_KEY,
            permission=ContainerSasPermissions(read=True),
            expiry=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1),
        )


@contextlib.contextmanager
def blob_store(folder: Path) -> Iterator[BlobStore]:
    """Run the emulator for the time of a block; skip the test where there is none."""
    command = shutil.which("azurite-blob")
    if command is None:
        pytest.skip("no azurite-blob on the PATH: npm install -g azurite")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["--blobPort", str(port), "--location", str(folder), "--silent"]
    arguments += ["--skipApiVersionCheck", "--disableTelemetry"]
    with subprocess.Popen([command, *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
            yield BlobStore(f"http://127.0.0.1:{port}/{ACCOUNT}")
        finally:
            process.terminate()


@contextlib.contextmanager
def threaded_hub() -> Iterator[Hub]:
    """Run the hub's double in a thread for the time of a block."""
    started: list[Hub] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def run() -> None:
        async with hub() as running:
            started.append(running)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert ready.wait(10)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
