"""Which uploader a target is for, with what the operator set; libraries load on first use."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import httpx

from handler.credentials import HeaderAuth, S3Auth
from handler.delivery.azure import AzureUploader
from handler.delivery.delivery import Delivery, Limits
from handler.delivery.gcs import GcsUploader, hmac_uploader
from handler.delivery.google import GoogleTokens
from handler.delivery.http import HttpUploader
from handler.delivery.http_put import HttpPut
from handler.delivery.hub import HubUploader
from handler.delivery.presigned import PresignedUploader
from handler.delivery.s3 import S3Uploader
from handler.delivery.s3_client import S3Clients
from handler.delivery.volume import VolumeUploader
from handler.inputs.address import AddressPolicy
from handler.targets import (
    AzureTarget,
    GcsTarget,
    HfTarget,
    HttpTarget,
    PresignedTarget,
    S3Target,
    VolumeTarget,
)
from handler.transfer.azure_source import AzureAccount
from handler.transfer.http_line import origin
from handler.transfer.operator import caller_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from handler.delivery.base import Uploader
    from handler.delivery.delivery import OnStored, Sent
    from handler.metrics import Metrics
    from handler.settings import Settings
    from handler.targets import Target
    from handler.transfer.sources import SourceSettings
    from handler.transfer.threads import Threads

MOST_AT_ONCE = 16
"""Uploads of all jobs together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """What the operator set.

    Attributes:
        sources: the providers' accounts, the same that files are fetched with.
        header: HTTP_AUTH_HEADER_*, sent to `header_origins` (scheme, host, port).
        volumes: folders that `volume` may write to.
        kept_s: OUTPUT_RETENTION_S.
        state_folders: and what is not of them, should it lie inside.
    """

    sources: SourceSettings
    header: HeaderAuth | None = None
    header_origins: frozenset[tuple[str, str, int]] = frozenset()
    volumes: tuple[Path, ...] = ()
    state_folders: tuple[Path, ...] = ()
    kept_s: int = 0
    limits: Limits = field(default_factory=Limits)


def provider_settings(settings: Settings) -> ProviderSettings:
    """Give what is set for uploads.

    Raises:
        SettingsError: credentials are set that cannot be sent.
    """
    sources = caller_settings(settings)
    header: dict[str, Any] = {
        "header_name": settings.http_auth_name,
        "header_value": settings.http_auth_value,
    }
    origins = filter(None, map(str.strip, settings.http_auth_origins.split(",")))
    return ProviderSettings(
        sources=sources,
        header=HeaderAuth.model_validate(header) if settings.http_auth_name else None,
        header_origins=frozenset(origin(httpx.URL(text)) for text in origins),
        volumes=settings.allow_volumes,
        state_folders=_state_folders(settings),
        kept_s=int(settings.output_retention_s),
        limits=Limits(tries=settings.upload_tries, timeout_s=settings.upload_timeout_s),
    )


def _state_folders(settings: Settings) -> tuple[Path, ...]:
    """Give the folders of STATE_DIR and STATE_URL: records, outputs, and webhooks to be sent."""
    text, parts = settings.state_url, urlsplit(settings.state_url)
    if parts.scheme in {"s3", "file"}:
        text = unquote(parts.path) if parts.scheme == "file" else ""
    folders = (settings.state_folder, *((Path(text),) if text else ()))
    return tuple(folder.expanduser().absolute() for folder in folders)


class Providers:
    """Makes deliveries, and holds what their uploaders share.

    Args:
        policy: where what a request names may lead; what the operator named is free of it.
        on_stored: see `Delivery`.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        policy: AddressPolicy,
        threads: Threads,
        *,
        on_stored: OnStored | None = None,
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._threads = threads
        self._on_stored = on_stored
        self._gate = asyncio.Semaphore(MOST_AT_ONCE)
        sources = settings.sources
        self._s3 = S3Clients(sources.s3_region, sources.s3_endpoint)
        self._checked = HttpPut(policy, threads)
        self._free = HttpPut(AddressPolicy("*"), threads)
        key_file = sources.google_key_file
        self._google = GoogleTokens(key_file, threads) if key_file else None

    async def check(self, targets: Sequence[Target]) -> None:
        """Make sure, before a job runs, that its targets can be served as far as can be known.

        Raises:
            InvalidPayload: a provider is not set up, not installed, or the target not allowed.
            UrlNotAllowed: the address policy refuses where one leads.
        """
        for target in targets:
            uploader = self.uploader(target, "")
            try:
                await uploader.check()
            finally:
                await uploader.close()

    def delivery(
        self,
        targets: Sequence[Target],
        job_id: str,
        *,
        on_progress: Callable[[Sent], None] | None = None,
        metrics: Metrics | None = None,
    ) -> Delivery:
        """Begin the delivery of a job's outputs."""
        return Delivery(
            [(target, self.uploader(target, job_id)) for target in targets],
            job_id,
            gate=self._gate,
            limits=self._settings.limits,
            on_progress=on_progress,
            on_stored=self._on_stored,
            kept_s=self._settings.kept_s,
            metrics=metrics,
        )

    def uploader(self, target: Target, job_id: str) -> Uploader:
        """Make the uploader of a target."""
        sources = self._settings.sources
        match target:
            case S3Target():
                reserved = sources.s3_reserved
                return S3Uploader(target, self._s3, self._policy, self._threads, reserved=reserved)
            case AzureTarget():
                account = sources.azure or AzureAccount()
                return AzureUploader(target, account, self._policy, self._threads)
            case HfTarget():
                return HubUploader(
                    target,
                    self._threads,
                    token=sources.hf_token,
                    endpoint=sources.hf_endpoint,
                    message=f"Add the results of {job_id[:200]}",
                )
            case HttpTarget():
                return HttpUploader(
                    target,
                    self._checked,
                    self._policy,
                    header=self._settings.header,
                    header_origins=self._settings.header_origins,
                )
            case GcsTarget():
                return self._gcs(target)
            case PresignedTarget():
                return PresignedUploader(target, self._checked, self._policy)
            case VolumeTarget():
                set_ = self._settings
                return VolumeUploader(
                    target, set_.volumes, self._threads, reserved=set_.state_folders
                )
        raise AssertionError(f"no uploader for {target!r}")

    def _gcs(self, target: GcsTarget) -> Uploader:
        endpoint = self._settings.sources.google_endpoint
        if isinstance(target.auth, S3Auth):
            free = AddressPolicy("*")
            return hmac_uploader(target, self._s3, free, self._threads, endpoint)
        return GcsUploader(target, self._free, tokens=self._google, endpoint=endpoint)

    async def close(self) -> None:
        """Close what the uploaders shared."""
        await self._checked.close()
        await self._free.close()
        await self._threads.call(self._s3.close)
