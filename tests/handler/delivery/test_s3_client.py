"""Clients of S3, with the operator's keys or a caller's."""

from __future__ import annotations

import pytest

from handler.credentials import S3Auth
from handler.delivery.s3_client import S3Clients, S3Place, new_client

SECRET = "canary4711secret"


@pytest.fixture
def clients():
    made = S3Clients("eu-west-1", None)
    yield made
    made.close()


def test_the_operators_client_is_made_once(no_environment, clients):
    """With the keys as boto3 finds them; none without."""
    place = S3Place("eu-west-1")
    assert clients.client(place) is None
    no_environment.setenv("AWS_ACCESS_KEY_ID", "AK")
    no_environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    first = clients.client(place)

    assert clients.client(place) is first
    assert clients.client(S3Place("us-east-1")) is not first
    assert first.meta.region_name == "eu-west-1"
    assert SECRET not in repr(clients) + repr(place)


@pytest.mark.parametrize(
    ("endpoint", "style", "checksums"),
    [(None, "auto", "when_supported"), ("http://store.test", "path", "when_required")],
)
def test_stores_that_are_not_amazons_get_what_all_of_them_know(
    no_environment, endpoint, style, checksums
):
    """Buckets in the path, no newer checksums."""
    auth = S3Auth(access_key_id="AK", secret_access_key=SECRET, session_token="t")

    made = new_client(S3Place("auto", endpoint, "127.0.0.1" if endpoint else None), auth)

    config = made.meta.config
    assert config.s3["addressing_style"] == style
    assert config.request_checksum_calculation == checksums
    assert config.response_checksum_validation == checksums
    made.close()
