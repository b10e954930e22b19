"""Parts that are closed again, stores to upload to, and the service's share of a run."""

from __future__ import annotations

import json
import random

import boto3
import pytest
from moto.server import ThreadedMotoServer
from sources.puts import storing
from worker import GRAPH, parts_in

from handler.engine.events import NodeOutput, NodeStarted, Started, Succeeded
from handler.engine.memory import PIXEL, write_picture
from handler.pipeline.execute import Recorder, engine_prompt, judge_end

KEYS = {"aws_access_key_id": "AK", "aws_secret_access_key": "canary4711secret"}
AUTH = {"type": "s3", "access_key_id": "AK", "secret_access_key": "canary4711secret"}
TWO = {**GRAPH, "3": {"class_type": "SaveImage", "inputs": {**GRAPH["2"]["inputs"]}}}
TWO["3"]["inputs"]["filename_prefix"] = "y"


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


def executing(parts, job):
    """What the service does in between: run the graph in the engine."""

    async def execute(prepared):
        recorder = Recorder(prepared, job, parts)
        end = await parts.engine.run(engine_prompt(prepared, "p", parts), recorder)
        return judge_end(end, recorder.ran)

    return execute


def playing(*, gate=None, size=0, texts=(), end=None):
    """Make a script: each node saves a picture, or noise of a size; `gate` is waited for after.

    Args:
        gate: waited for after the first output.
        end: the run's, in place of a success.
    """

    async def script(prompt, files):
        yield Started(1_000)
        outputs = 0
        for node_id, node in prompt.graph.items():
            yield NodeStarted(node_id)
            prefix = node.get("inputs", {}).get("filename_prefix")
            if isinstance(prefix, str):
                data = random.Random(node_id).randbytes(size) if size else PIXEL
                told = {"images": [write_picture(files, prefix, data)]}
                yield NodeOutput(node_id, told | ({"text": list(texts)} if texts else {}))
                outputs += 1
                if gate is not None and outputs == 1:
                    await gate.wait()
        yield end or Succeeded(2_000)

    return script
