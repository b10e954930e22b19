"""Parts that are closed again, and stores to upload to."""

from __future__ import annotations

import json

import boto3
import pytest
from moto.server import ThreadedMotoServer
from sources.puts import storing
from worker import PROVIDERS, parts_in

KEYS = {"aws_access_key_id": "AK", "aws_secret_access_key": "canary4711secret"}
AUTH = {"type": "s3", "access_key_id": "AK", "secret_access_key": "canary4711secret"}


@pytest.fixture
async def made(tmp_path):
    """Make parts; what their uploads share is closed at the end."""
    parts = []

    def make(settings=None, **engine):
        parts.append(parts_in(tmp_path, settings, **engine))
        return parts[-1]

    yield make
    for one in parts:
        await one.providers.close()


@pytest.fixture
async def store():
    """A server that takes files."""
    async with storing() as running:
        yield running


@pytest.fixture(autouse=True)
async def providers_closed():
    """Close what uploads were made by: clients keep connections."""
    yield
    while PROVIDERS:
        await PROVIDERS.pop().close()


@pytest.fixture(scope="session")
def s3_server():
    """A store that speaks S3, with a bucket; give its endpoint and a client."""
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **KEYS)
    client.create_bucket(Bucket="results")
    yield endpoint, client
    client.close()
    running.stop()


@pytest.fixture
def s3(s3_server):
    """An upload object for that store, and how an object is read."""
    endpoint, client = s3_server

    def target(prefix, **keys):
        return {"bucket": "results", "prefix": prefix, "endpoint": endpoint, "auth": AUTH, **keys}

    def read(key):
        got = client.get_object(Bucket="results", Key=key)
        return got["Body"].read(), got["ContentType"]

    target.read = read
    return target


@pytest.fixture
def storage(s3):
    """OUTPUT_STORAGE for that store."""
    return lambda prefix, **keys: json.dumps({"s3": s3(prefix, **keys)})
