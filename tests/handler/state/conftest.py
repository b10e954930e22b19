"""State in every kind of place, as many workers as a test wants."""

from __future__ import annotations

import secrets
import socket
import threading

import boto3
import pytest
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from handler.state.directory import DirectoryBlobs
from handler.state.records import JobRecord
from handler.state.s3 import S3Blobs
from handler.state.store import StateStore

PLACES = ("directory", "directory without links", "s3")


@pytest.fixture(scope="session")
def s3_server():
    """A store that speaks S3, with a bucket `state`; give its endpoint."""
    backend, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_at_a_time(environ, start_response):
        with turn:  # of two conditional writes at once moto would take both
            return list(backend(environ, start_response))

    running = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    client = s3_client(f"http://127.0.0.1:{running.port}")
    client.create_bucket(Bucket="state")
    client.close()
    yield f"http://127.0.0.1:{running.port}"
    running.shutdown()
    thread.join()
    running.server_close()


def s3_client(endpoint, **options):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="AK",
        aws_secret_access_key="SK",
        config=Config(retries={"total_max_attempts": 1}, max_pool_connections=32, **options),
    )


@pytest.fixture(params=PLACES)
def place(request, tmp_path):
    """Open the same empty place as one worker after another would."""
    made = []
    prefix = f"p{secrets.token_hex(4)}"

    def another():
        if request.param == "s3":
            endpoint = request.getfixturevalue("s3_server")
            blobs = S3Blobs("state", prefix, lambda: s3_client(endpoint))
        else:
            blobs = DirectoryBlobs(tmp_path / "state", links=request.param == "directory")
            if request.param != "directory":
                (tmp_path / "state" / ".aside").mkdir(parents=True, exist_ok=True)
                return blobs  # `open` would find links
        blobs.open()
        made.append(blobs)
        return blobs

    another.kind = request.param
    yield another
    for blobs in made:
        if isinstance(blobs, S3Blobs):
            blobs._client.close()


@pytest.fixture
def worker(place):
    """Give the stores of as many workers as are asked for."""
    stores = []

    def another():
        stores.append(StateStore(place()))
        return stores[-1]

    another.kind = place.kind
    yield another
    for store in stores:
        store._pool.shutdown(wait=True)


@pytest.fixture
def store(worker):
    return worker()


@pytest.fixture
def local(tmp_path):
    """A store in a folder, for what does not depend on the place."""
    blobs = DirectoryBlobs(tmp_path / "state")
    blobs.open()
    made = StateStore(blobs)
    yield made
    made._pool.shutdown(wait=True)


@pytest.fixture
def record():
    """Make records that differ in what is said."""
    count = 0

    def make(job_id="job-1", **facts):
        nonlocal count
        count += 1
        facts = {"uid": f"{count:032x}", "instance": "w1", "created": 1000.0 + count, **facts}
        return JobRecord(id=job_id, digest=facts.pop("digest", "d1"), **facts)

    return make


@pytest.fixture
def free_endpoint():
    """A URL that nobody answers at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
