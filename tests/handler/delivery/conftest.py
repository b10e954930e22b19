"""Stores of every kind, and outputs to be stored."""

from __future__ import annotations

import datetime as dt
import hashlib
import random
import socket
import ssl

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.server import ThreadedMotoServer
from sources.puts import storing

from handler.delivery.base import Upload
from handler.media.mimes import mime_of
from handler.records import Output
from handler.transfer.threads import Threads

KEYS = {"aws_access_key_id": "AK", "aws_secret_access_key": "canary4711secret"}


@pytest.fixture
def threads():
    pool = Threads()
    yield pool
    pool.close()


@pytest.fixture
async def store():
    async with storing() as running:
        yield running


@pytest.fixture
def output(tmp_path):
    """Make outputs of noise; a name may come twice."""

    def make(name="cat.png", size=5000, node="9", body=None):
        body = random.Random(f"{node}{name}").randbytes(size) if body is None else body
        path = tmp_path / "outputs" / node / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return Output(
            node_id=node,
            title="",
            kind="file",
            mime=mime_of(name),
            filename=name,
            bytes=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
            path=path,
        )

    return make


@pytest.fixture
def item(output):
    """Make what an uploader gets."""

    def make(name="cat.png", size=5000, key=None, place=0, **options):
        made = output(name, size, **options)
        return Upload(
            path=made.path,
            name=name,
            content_type=made.mime,
            size=made.bytes,
            sha256=made.sha256,
            key=name if key is None else key,
            place=place,
        )

    return make


@pytest.fixture
def progress():
    """What an uploader tells of its way."""
    told = []

    def tell(sent):
        told.append(sent)

    tell.told = told
    return tell


@pytest.fixture(scope="module")
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
def no_environment(monkeypatch, tmp_path):
    """Nothing of the machine's own for boto3 to find."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A server's side of TLS for files.test and localhost, and the file that clients trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "files.test")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("files.test"), x509.DNSName("localhost")]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain = tmp_path_factory.mktemp("tls") / "chain.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain)
    return server, chain
