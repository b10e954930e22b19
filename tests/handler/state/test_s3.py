"""State in a bucket: what is particular to stores that speak S3."""

from __future__ import annotations

import io
import secrets

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.httpsession import URLLib3Session
from botocore.response import StreamingBody

from handler.errors import StateUnavailable
from handler.state.s3 import S3Blobs

KEY = "jobs/ab/abcdef"


class Raw(io.BytesIO):
    def stream(self, **_):
        yield self.getvalue()


def answering(request, status, code):
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    return AWSResponse(request.url, status, {}, Raw(body))


@pytest.fixture
def opened(s3_server):
    """Give blobs whose requests go through a hook: it may answer itself."""
    clients = []

    def make(hook=None, bucket="state", tries=1):
        client = boto3.client(
            "s3",
            endpoint_url=s3_server,
            region_name="us-east-1",
            aws_access_key_id="AK",
            aws_secret_access_key="SK",
            config=Config(retries={"total_max_attempts": tries, "mode": "standard"}),
        )
        clients.append(client)
        if hook is not None:
            client.meta.events.register("before-send.s3.PutObject", hook)
        return S3Blobs(bucket, secrets.token_hex(4), lambda: client)

    yield make
    for client in clients:
        client.close()


def test_a_good_store_is_found_good_and_left_clean(opened):
    """Nothing of the try stays."""
    blobs = opened()
    blobs.open()

    assert blobs.names("probes/") == []


@pytest.mark.parametrize("unheeded", [("If-None-Match", "If-Match"), ("If-Match",)])
def test_a_store_that_does_not_heed_conditions_is_found_out(opened, unheeded):
    """At the start, and not when two workers have run one job."""

    def hook(request, **_):
        for name in unheeded:
            request.headers.pop(name, None)

    blobs = opened(hook)
    with pytest.raises(StateUnavailable, match="does not heed") as told:
        blobs.open()
    assert not told.value.retryable
    assert "STATE_URL" in told.value.hint
    assert blobs.names("probes/") == []


def test_a_store_that_refuses_conditions_says_so(opened):
    """Some answer 501 to what they do not know."""
    with pytest.raises(StateUnavailable, match="501 NotImplemented") as told:
        opened(lambda request, **_: answering(request, 501, "NotImplemented")).open()
    assert "conditional writes" in told.value.hint


def test_two_writes_at_once_are_tried_again(opened):
    """S3 answers 409 to one of them, which says nothing of the condition."""
    answers = [409, 409]

    def hook(request, **_):
        return answering(request, answers.pop(), "ConditionalRequestConflict") if answers else None

    blobs = opened(hook)
    assert blobs.create(KEY, b"one")
    assert not blobs.create(KEY, b"two")


@pytest.mark.parametrize("times", [1])
def test_a_write_whose_answer_was_lost_is_known_as_ours(opened, times):
    """The second try finds the first one's object; another writer's would be told apart."""
    lost = [True] * times

    def hook(request, **_):
        if lost:
            lost.pop()
            session = URLLib3Session()
            assert session.send(request).status_code == 200
            session.close()
            return answering(request, 500, "InternalError")
        return None

    blobs = opened(hook, tries=3)
    assert blobs.create(KEY, b"one")
    assert not lost
    assert not blobs.create(KEY, b"one")


def test_a_bucket_that_is_not_there_is_told(opened):
    """With the variable that names it."""
    blobs = opened(bucket="none-such")
    for work in (
        *(blobs.open, lambda: blobs.read(KEY), lambda: blobs.mark(KEY)),
        *(lambda: blobs.names("x/"), lambda: blobs.open_file(KEY)),
    ):
        with pytest.raises(StateUnavailable, match="NoSuchBucket") as told:
            work()
        assert not told.value.retryable
        assert "STATE_URL" in told.value.hint


def test_a_store_that_does_not_answer_is_told(free_endpoint):
    """As what may pass; the text has no address but the bucket's."""
    client = boto3.client(
        "s3",
        endpoint_url=free_endpoint,
        region_name="us-east-1",
        aws_access_key_id="AK",
        aws_secret_access_key="SK",
        config=Config(retries={"total_max_attempts": 1}),
    )
    with pytest.raises(StateUnavailable, match="EndpointConnectionError") as told:
        S3Blobs("state", "a", lambda: client).open()
    assert told.value.retryable
    assert free_endpoint not in told.value.message
    client.close()


def test_a_file_that_cannot_be_read_is_told(opened, tmp_path):
    """It went away before it was kept."""
    with pytest.raises(StateUnavailable):
        opened().keep("outputs/1", tmp_path / "none")


def test_lists_go_on_after_a_thousand(opened):
    """S3 gives no more at once."""
    blobs = opened()
    keys = [f"m/{n:04d}" for n in range(1003)]
    for key in keys:
        blobs.mark(key)

    assert blobs.names("m/", most=5000) == keys


def test_bytes_that_break_off_are_a_fault_of_a_file(opened, tmp_path):
    """Whoever reads knows no library."""
    blobs = opened()
    (tmp_path / "a").write_bytes(b"12345")
    blobs.keep("outputs/1", tmp_path / "a")
    file = blobs.open_file("outputs/1")
    file._body.close()
    file._body = StreamingBody(io.BytesIO(b"12"), 5)

    with file, pytest.raises(OSError, match="broke off"):
        file.read()


def test_a_renewed_store_makes_its_client_anew(s3_server):
    """The connections of the old one may be dead, and its keys others."""
    made = []

    def make():
        made.append(
            boto3.client(
                "s3",
                endpoint_url=s3_server,
                region_name="us-east-1",
                aws_access_key_id="AK",
                aws_secret_access_key="SK",
            )
        )
        return made[-1]

    blobs = S3Blobs("state", secrets.token_hex(4), make)
    blobs.open()
    blobs.mark(KEY)
    blobs.renew()
    assert blobs.names("jobs/") == [KEY]
    assert len(made) == 2
    for client in made:
        client.close()
