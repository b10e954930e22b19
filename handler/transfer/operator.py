"""The sources as the operator set them up, for the URLs of the operator and for those of callers.

What the operator named is not held to the address policy, and may be any file of this machine.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import httpx
from pydantic import SecretStr, ValidationError

from handler.credentials import BearerAuth, Credential, HeaderAuth
from handler.inputs.address import AddressPolicy
from handler.settings import SettingsError
from handler.transfer.azure_source import AzureAccount
from handler.transfer.records import Limits
from handler.transfer.sources import CIVITAI, Sources, SourceSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from handler.inputs.address import Resolver
    from handler.settings import Settings
    from handler.transfer.threads import Threads

log = logging.getLogger("comfyfn.transfer")

_MEDIA_TRIES = 3


def operator_sources(settings: Settings, threads: Threads) -> Sources:
    """Make the sources of URLs that the operator wrote, as those of a manifest.

    Raises:
        SettingsError: credentials are set that cannot be sent.
    """
    set_ = operator_settings(settings)
    return Sources(set_, AddressPolicy("*"), threads, anew=operator_settings)


def caller_sources(
    settings: Settings, threads: Threads, resolver: Resolver | None = None
) -> Sources:
    """Make the sources of URLs that callers send.

    Args:
        resolver: asked for host names; the system's by default.

    Raises:
        SettingsError: credentials are set that cannot be sent.
    """
    if proxy := settings.https_proxy or settings.http_proxy:
        log.warning("downloads do not go through the proxy %s: hosts are connected to", proxy)
    if settings.http_auth_name and not settings.http_auth_origins.strip():
        log.warning(
            "HTTP_AUTH_HEADER_NAME is sent to the operator's URLs only: for those of callers, "
            "list the origins that may have it in HTTP_AUTH_ALLOWED_ORIGINS"
        )
    policy = caller_policy(settings, resolver)
    return Sources(caller_settings(settings), policy, threads, anew=caller_settings)


def media_sources(settings: Settings, threads: Threads) -> Sources:
    """Make the sources of the media that callers name: as `caller_sources`, for what is small.

    Links of the hub are fetched as they are: a picture is here before huggingface_hub is loaded.

    Raises:
        SettingsError: credentials are set that cannot be sent.
    """

    def media_settings(read: Settings) -> SourceSettings:
        return replace(caller_settings(read), hf_over_http=True)

    set_ = media_settings(settings)
    return Sources(set_, caller_policy(settings), threads, anew=media_settings)


def media_limits(settings: Settings) -> Limits:
    """Give the limits of media: a caller waits for them, so less is tried than for a model."""
    return Limits(
        total_s=settings.fetch_timeout_s, max_bytes=settings.max_input_mb << 20, tries=_MEDIA_TRIES
    )


def operator_settings(settings: Settings) -> SourceSettings:
    """Give what is set for the operator's own URLs: every file, the header to every other host.

    Raises:
        SettingsError: credentials are set that cannot be sent.
    """
    return _source_settings(settings, ("**",), (Path("/"),))


def caller_settings(settings: Settings) -> SourceSettings:
    """Give what is set for callers' URLs. Providers get what is set for them.

    HTTP_AUTH_HEADER_* goes to the origins of HTTP_AUTH_ALLOWED_ORIGINS only: callers could name a
    host of their own, and would be told the secret.

    Raises:
        SettingsError: credentials are set that cannot be sent.
    """
    origins = filter(None, map(str.strip, settings.http_auth_origins.split(",")))
    patterns = [f"{str(httpx.URL(origin)).rstrip('/')}/**" for origin in origins]
    made = _source_settings(settings, patterns, settings.allow_paths)
    return replace(
        made,
        header_withheld=bool(settings.http_auth_name),
        s3_reserved=_state_objects(settings.state_url),
    )


def _state_objects(state_url: str) -> str:
    """Give bucket and prefix of the state, `bucket/prefix/`; "" where it is in a folder."""
    parts = urlsplit(state_url)
    if parts.scheme != "s3":
        return ""
    return f"{'/'.join(filter(None, (parts.netloc, unquote(parts.path).strip('/'))))}/"


def caller_policy(settings: Settings, resolver: Resolver | None = None) -> AddressPolicy:
    """Give where callers' URLs may lead."""
    allowed = ",".join(filter(None, (settings.url_allow_hosts, settings.trusted_origins)))
    return AddressPolicy(allowed, resolver)


def _source_settings(
    settings: Settings, patterns: Iterable[str], local_roots: tuple[Path, ...]
) -> SourceSettings:
    return SourceSettings(
        defaults=_defaults(settings, patterns),
        s3_region=settings.aws_region or settings.aws_default_region or None,
        s3_endpoint=settings.aws_endpoint or None,
        azure=AzureAccount(
            settings.azure_connection,
            settings.azure_account,
            settings.azure_key,
            settings.azure_sas_token,
        ),
        hf_token=settings.hf_token or None,
        hf_endpoint=settings.hf_endpoint.rstrip("/") or None,
        google_key_file=settings.google_key_file,
        google_endpoint=settings.google_endpoint.rstrip("/"),
        local_roots=local_roots,
    )


def _defaults(settings: Settings, patterns: Iterable[str]) -> tuple[Credential, ...]:
    """Give the credentials of http(s) hosts; the first that matches counts.

    Args:
        patterns: of the URLs that HTTP_AUTH_HEADER_* is sent to.
    """
    found: list[Credential] = []
    name = "CIVITAI_API_TOKEN"
    try:
        if settings.civitai_token:
            # By name: `*.civitai.com` would match a host that has it in its query.
            bearer = BearerAuth(token=SecretStr(settings.civitai_token))
            found += (Credential(url_pattern=f"https://{host}/**", auth=bearer) for host in CIVITAI)
        name = "HTTP_AUTH_HEADER_NAME and HTTP_AUTH_HEADER_VALUE"
        if settings.http_auth_name:
            header = HeaderAuth(
                header_name=settings.http_auth_name,
                header_value=SecretStr(settings.http_auth_value),
            )
            found += (Credential(url_pattern=pattern, auth=header) for pattern in patterns)
    except ValidationError as error:
        raise SettingsError(f"{name}: {error.errors()[0]['msg']}") from None
    return tuple(found)
