"""State in a bucket: conditional writes by `If-None-Match: *` and `If-Match`.

Amazon's S3 has them, and R2, MinIO, Ceph and others; a store that takes the headers and does not
heed them is found out when it is opened.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

from handler.errors import StateUnavailable
from handler.state.blobs import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_TRIES = 5
_NONCE = "comfyfn-write"
_UNHEEDED = "the store does not heed conditions (If-None-Match, If-Match) on writes"
_REMEDY = "STATE_URL needs a store with conditional writes, or a directory"


class _Body:
    """An object's bytes, with faults as a file has them."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def read(self, size: int = -1) -> bytes:
        from botocore.exceptions import BotoCoreError

        try:
            return bytes(self._body.read(size if size >= 0 else None))
        except BotoCoreError as fault:
            raise OSError(f"the store broke off ({type(fault).__name__})") from fault

    def close(self) -> None:
        self._body.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Refused(Exception):
    """The condition does not hold."""


class S3Blobs:
    """Blobs as objects; see `Blobs` for what the methods promise.

    Args:
        bucket, prefix: of STATE_URL; the prefix without slashes around it.
        new_client: makes a boto3 client; called once, from a thread. None: there are no keys.
    """

    def __init__(self, bucket: str, prefix: str, new_client: Callable[[], Any]) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._new_client = new_client
        self._made: Any = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<S3Blobs s3://{self._bucket}/{self._prefix}>"

    @property
    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._new_client()
                if self._made is None:
                    raise StateUnavailable(
                        "STATE_URL is in a bucket, and there are no keys for S3",
                        hint="set AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                        retryable=False,
                    )
            return self._made

    def renew(self) -> None:
        """Make a client anew on next use; documented at the port."""
        with self._lock:
            self._made = None

    def open(self) -> None:
        """Try whether conditions are kept; documented at the port."""
        key = f"probes/{secrets.token_hex(8)}"
        try:
            # Each of these is false, so a store that heeds them says no.
            heeded = self.create(key, b"1") and not self.create(key, b"2")
            heeded = heeded and not self.replace(key, b"3", '"0123456789abcdef0123456789abcdef"')
            found = self.read(key)
            heeded = heeded and found is not None and self.replace(key, b"4", found.version)
        finally:
            with contextlib.suppress(StateUnavailable):
                self.remove(key)
        if not heeded:
            raise StateUnavailable(_UNHEEDED, hint=_REMEDY, retryable=False)

    def create(self, key: str, body: bytes) -> bool:
        """Put an object that is not there; documented at the port."""
        return self._put(key, body, IfNoneMatch="*")

    def replace(self, key: str, body: bytes, version: str) -> bool:
        """Put an object over a known one; documented at the port."""
        return self._put(key, body, IfMatch=version)

    def _put(self, key: str, body: bytes, **condition: str) -> bool:
        nonce = secrets.token_hex(8)
        for _ in range(_TRIES):
            try:
                with self._told(404, 409, 412):
                    self._client.put_object(
                        **self._at(key), Body=body, Metadata={_NONCE: nonce}, **condition
                    )
                return True
            except _Refused as refused:
                if refused.args[0] == 409:
                    continue  # two at once: the store asks to try again
                # A first try whose answer was lost made the second one fail.
                return self._is_ours(key, nonce)
        return False

    def _is_ours(self, key: str, nonce: str) -> bool:
        try:
            with self._told(404):
                head = self._client.head_object(**self._at(key))
        except _Refused:
            return False
        return bool(head["Metadata"].get(_NONCE) == nonce)

    def read(self, key: str) -> Found | None:
        """Get an object whole; documented at the port."""
        try:
            with self._told(404):
                answer = self._client.get_object(**self._at(key))
                with contextlib.closing(answer["Body"]) as body:
                    return Found(body.read(), answer["ETag"])
        except _Refused:
            return None

    def mark(self, key: str, body: bytes = b"") -> None:
        """Put an object; documented at the port."""
        with self._told():
            self._client.put_object(**self._at(key), Body=body)

    def names(self, prefix: str, after: str = "", most: int = 1000) -> list[str]:
        """List objects, which S3 does in order; documented at the port."""
        found: list[str] = []
        start = self._prefix + after if after else ""
        with self._told():
            while len(found) < most:
                asked = min(1000, most - len(found))
                answer = self._client.list_objects_v2(
                    Bucket=self._bucket,
                    Prefix=self._prefix + prefix,
                    StartAfter=start,
                    MaxKeys=asked,
                )
                keys = [one["Key"] for one in answer.get("Contents", ())]
                found += [key.removeprefix(self._prefix) for key in keys]
                if not keys or not answer["IsTruncated"]:
                    break
                start = keys[-1]
        return found

    def keep(self, key: str, path: Path) -> None:
        """Upload a file, in parts where it is large; documented at the port."""
        with self._told():
            self._client.upload_file(str(path), self._bucket, self._prefix + key)

    def open_file(self, key: str, first: int = 0, last: int | None = None) -> BinaryIO | None:
        """Get an object, or a part of it; documented at the port."""
        span = {} if not first and last is None else {"Range": f"bytes={first}-{_or(last)}"}
        try:
            with self._told(404, 416):
                body = self._client.get_object(**self._at(key), **span)["Body"]
                return cast("BinaryIO", _Body(body))
        except _Refused as refused:
            return io.BytesIO() if refused.args[0] == 416 else None

    def remove(self, key: str) -> None:
        """Delete an object; documented at the port."""
        with self._told():
            self._client.delete_object(**self._at(key))

    def sweep(self, now: float) -> None:
        """A put that breaks off leaves nothing; parts go by the bucket's own lifecycle."""

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    @contextlib.contextmanager
    def _told(self, *refusals: int) -> Iterator[None]:
        """Turn the library's faults into ours; their texts may have addresses in them."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as fault:
            status = int(fault.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
            code = str(fault.response.get("Error", {}).get("Code"))
            if status in refusals and code != "NoSuchBucket":
                raise _Refused(status) from fault
            raise self._fault(f"{status} {code}") from fault
        except (Boto3Error, BotoCoreError) as fault:
            raise self._fault(type(fault).__name__) from fault
        except OSError as fault:
            raise self._fault(fault.strerror or type(fault).__name__) from fault

    def _fault(self, why: str) -> StateUnavailable:
        missing = "NoSuchBucket" in why or "501" in why
        return StateUnavailable(
            f"state cannot be kept in s3://{self._bucket}: {why}",
            hint=_REMEDY if "501" in why else "STATE_URL names the bucket and a prefix in it",
            retryable=not missing,
        )


def _or(last: int | None) -> str:
    return "" if last is None else str(last)
