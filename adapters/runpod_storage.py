"""Where outputs go on RunPod by the names that its users know: `s3Config`, and BUCKET_*."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from handler.errors import InvalidPayload
from handler.records import TARGET_KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handler.settings import Settings

LINK_S = 7 * 86_400
"""How long links are good, as those of RunPod's own uploader."""

_S3_CONFIG = ("accessId", "accessSecret", "bucketName", "endpointUrl")
# As RunPod's uploader reads it: what follows `.s3.`, or is before DigitalOcean's name.
_REGION = re.compile(r"\.s3\.([a-z0-9-]+)\.|//(?:[^/]*\.)?([a-z0-9-]+)\.digitaloceanspaces\.com")


def with_bucket(settings: Settings) -> Settings:
    """Make the bucket of BUCKET_* the storage of what an answer cannot hold.

    OUTPUT_STORAGE wins. As RunPod's uploader has it, the bucket is called by month and year
    (`11-26`), unless BUCKET_NAME says how; of an endpoint that names a bucket itself, that becomes
    the folder in it.
    """
    if not settings.bucket_endpoint or settings.output_storage:
        return settings
    # Buckets take two characters at least; the uploader's are named by the UTC month.
    name = settings.bucket_name or time.strftime("%m-%y", time.gmtime())
    target = _target(settings.bucket_endpoint, name, settings.bucket_key_id, settings.bucket_secret)
    return replace(settings, output_storage=json.dumps({"s3": target}))


def with_s3_config(payload: dict[str, Any], config: Any) -> dict[str, Any]:
    """Bring a job's outputs where its `s3Config` says, unless its payload says it itself.

    Raises:
        InvalidPayload: the configuration is not whole.
    """
    if not config or any(payload.get(kind) is not None for kind in TARGET_KINDS):
        return payload
    missing = [key for key in _S3_CONFIG if not _text(config, key)]
    if missing:
        raise InvalidPayload(
            f"s3Config: {', '.join(missing)} is missing",
            location="s3Config",
            hint=f"it needs {', '.join(_S3_CONFIG)}",
        )
    access, secret, bucket, endpoint = (str(config[key]) for key in _S3_CONFIG)
    return {**payload, "s3": _target(endpoint, bucket, access, secret)}


def _text(config: Any, key: str) -> bool:
    return isinstance(config, dict) and isinstance(config.get(key), str) and bool(config[key])


def _target(endpoint: str, bucket: str, access: str, secret: str) -> Mapping[str, Any]:
    found = _REGION.search(endpoint)
    region = next(filter(None, found.groups()), None) if found else None
    return {
        "bucket": bucket,
        "endpoint": endpoint.rstrip("/"),
        "region": region or "us-east-1",
        "presign_s": LINK_S,
        "auth": {"type": "s3", "access_key_id": access, "secret_access_key": secret},
    }
