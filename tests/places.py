"""Places that several workers have in common, and what a worker leaves that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import boto3
import orjson
from moto.server import ThreadedMotoServer

from handler.settings import Settings
from handler.state.place import open_state
from handler.state.records import JobRecord, payload_digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from handler.state.place import State

KINDS = ("directory", "s3")
KEYS = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}


@contextlib.contextmanager
def bucket_server() -> Iterator[str]:
    """Run a store that speaks S3, with a bucket `state`; give its endpoint."""
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    client = new_client(f"http://{host}:{port}")
    client.create_bucket(Bucket="state")
    client.close()
    try:
        yield f"http://{host}:{port}"
    finally:
        running.stop()


def new_client(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="AK",
        aws_secret_access_key="SK",
    )


def in_directory(folder: Path) -> Settings:
    """Settings of workers that have a folder in common."""
    return Settings(state_url=str(folder / "common"))


def in_bucket(endpoint: str) -> Settings:
    """Settings of workers that have a bucket in common; their keys are in the environment."""
    url = f"s3://state/p{secrets.token_hex(4)}"
    return Settings(state_url=url, aws_endpoint=endpoint, aws_region="us-east-1")


@contextlib.asynccontextmanager
async def opened(settings: Settings, home: Path) -> AsyncIterator[State]:
    """Open the state as a worker in `home` does, beside it; let go of it as one that is killed."""
    settings = replace(settings, state_dir=home / "state")
    state = await open_state(settings, lambda: new_client(settings.aws_endpoint), time.time())
    try:
        yield state
    finally:
        await state.recorder.settle_all()
        await state.events.close()
        state.store._pool.shutdown(wait=True)
        state.instance.close()


async def killed(
    settings: Settings, home: Path, payload: dict[str, Any], key: str | None = None
) -> JobRecord:
    """Leave what a worker leaves that is killed amid a job, longer ago than any sign is old."""
    async with opened(settings, home) as state:
        record = JobRecord(
            id=payload.get("id", "lost"),
            uid=secrets.token_hex(16),
            instance=state.instance.id,
            created=time.time(),
            digest=payload_digest(payload),
            key=key,
        )
        await state.admission.enter(record)
        await state.store.update(record.id, record.uid, lambda one: replace(one, phase="running"))
        old = orjson.dumps({"at": time.time() - 3600})
        await asyncio.to_thread(state.store.blobs.mark, f"instances/{state.instance.id}", old)
    return record
