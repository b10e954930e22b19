"""Clients of S3, with the operator's keys or a caller's."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from handler.delivery.pinned import PinnedSender

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.credentials import S3Auth

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where a client sends its requests.

    Attributes:
        endpoint: None for Amazon's own.
        address: the checked one that requests go to; None to have it looked up.
    """

    region: str
    endpoint: str | None = None
    address: str | None = None


class S3Clients:
    """The operator's clients; one for each place, since making one takes a tenth of a second.

    Args:
        region, endpoint: AWS_REGION (or AWS_DEFAULT_REGION) and AWS_ENDPOINT_URL; "" and None
            where unset.
    """

    def __init__(self, region: str | None, endpoint: str | None) -> None:
        self.region = region or ""
        self.endpoint = endpoint
        self._clients: dict[S3Place, Any] = {}
        self._lock = threading.Lock()

    def client(self, place: S3Place) -> Any:
        """Give a client with the operator's keys; None where there are none. Blocking."""
        with self._lock:
            if place not in self._clients:
                made = new_client(place, None)
                if made is None:
                    return None
                self._clients[place] = made
            return self._clients[place]

    def close(self) -> None:
        """Close them. Blocking."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()


def new_client(
    place: S3Place,
    auth: S3Auth | None,
    *,
    connect_s: float = 10,
    read_s: float = _TIMEOUT_S,
) -> Any:
    """Make a client; None where no keys are to be found. Blocking.

    Args:
        connect_s, read_s: how long a try waits for a connection, and for a word on it.
    """
    import boto3
    from botocore.config import Config

    keys: dict[str, Any] = {}
    if auth is not None:
        token = auth.session_token
        keys = {
            "aws_access_key_id": auth.access_key_id,
            "aws_secret_access_key": auth.secret_access_key.get_secret_value(),
            "aws_session_token": token.get_secret_value() if token else None,
        }
    session = boto3.session.Session(region_name=place.region, **keys)
    if session.get_credentials() is None:
        return None
    # Amazon's own takes the newer checksums; other stores have been known to refuse them.
    checksums: Any = "when_required" if place.endpoint else "when_supported"
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if place.endpoint else "auto"},
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=connect_s,
        read_timeout=read_s,
        max_pool_connections=16,
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
    )
    client = session.client("s3", endpoint_url=place.endpoint, config=config)
    if place.endpoint and place.address:
        sender = PinnedSender(place.endpoint, place.address, read_s)
        client.meta.events.register_first("before-send.s3", sender)
        client.close = partial(_close, client.close, sender.close)
    return client


def _close(*closes: Callable[[], None]) -> None:
    for close in closes:
        close()
