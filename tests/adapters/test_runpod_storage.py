"""Storages by the names that RunPod's users know."""

from __future__ import annotations

import json
import re

import pytest

from adapters.runpod_storage import LINK_S, with_bucket, with_s3_config
from handler.errors import InvalidPayload
from handler.pipeline.storage import output_storage
from handler.settings import Settings
from handler.targets import S3Target

CONFIG = {
    "accessId": "id",
    "accessSecret": "secret",
    "bucketName": "bucket",
    "endpointUrl": "https://s3.eu-west-2.amazonaws.com/",
}


def bucket(endpoint: str, **more: str) -> Settings:
    return Settings(bucket_endpoint=endpoint, bucket_key_id="id", bucket_secret="secret", **more)  # type: ignore[arg-type]


def test_a_bucket_is_the_storage() -> None:
    """With its keys, and links as long as those of RunPod's uploader."""
    target = output_storage(with_bucket(bucket("https://host", bucket_name="mine")))

    assert isinstance(target, S3Target)
    assert (target.bucket, target.endpoint, target.presign_s) == ("mine", "https://host", LINK_S)
    assert target.auth is not None
    assert target.auth.secret_access_key.get_secret_value() == "secret"


def test_a_bucket_without_a_name_is_called_by_the_month() -> None:
    """As RunPod's uploader does, for an endpoint that names the bucket already."""
    told = json.loads(with_bucket(bucket("https://host")).output_storage)

    assert re.fullmatch(r"\d\d-\d\d", told["s3"]["bucket"])


def test_output_storage_wins() -> None:
    """And without a bucket nothing changes."""
    own = bucket("https://host", output_storage='{"volume": {}}')

    assert with_bucket(own) is own
    assert with_bucket(Settings()).output_storage == ""


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("https://s3.eu-west-2.amazonaws.com", "us-east-1"),
        ("https://mine.s3.eu-west-2.amazonaws.com", "eu-west-2"),
        ("https://mine.nyc3.digitaloceanspaces.com", "nyc3"),
        ("https://s3.us-west-004.backblazeb2.com", "us-east-1"),
        ("https://account.r2.cloudflarestorage.com/mine", "us-east-1"),
    ],
)
def test_the_region_is_read_from_the_endpoint(endpoint: str, region: str) -> None:
    """As RunPod's uploader reads it."""
    told = json.loads(with_bucket(bucket(endpoint)).output_storage)

    assert told["s3"]["region"] == region


def test_a_jobs_own_config_is_a_target() -> None:
    """Unless its payload names one."""
    told = with_s3_config({"prompt": {}}, CONFIG)
    own = {"prompt": {}, "volume": {}}

    assert told["s3"]["bucket"] == "bucket"
    assert told["s3"]["auth"]["access_key_id"] == "id"
    assert with_s3_config(own, CONFIG) is own
    assert with_s3_config({"prompt": {}}, None) == {"prompt": {}}


@pytest.mark.parametrize("config", [{"accessId": "x"}, "text", [1], {**CONFIG, "bucketName": 3}])
def test_a_config_that_is_not_whole_is_refused(config: object) -> None:
    """It names what is missing, and no secret."""
    with pytest.raises(InvalidPayload, match=r"s3Config: .*bucketName") as told:
        with_s3_config({}, config)
    assert "secret" not in str(told.value)
