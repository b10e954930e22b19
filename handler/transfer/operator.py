"""The sources as the operator set them up: what they named themselves is not held to the policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr, ValidationError

from handler.credentials import BearerAuth, Credential, HeaderAuth
from handler.inputs.address import AddressPolicy
from handler.settings import SettingsError
from handler.transfer.azure_source import AzureAccount
from handler.transfer.sources import Sources, SourceSettings

if TYPE_CHECKING:
    from handler.settings import Settings
    from handler.transfer.threads import Threads

# By name: `*.civitai.com` would match a host that has it in its query.
_CIVITAI = ("civitai.com", "www.civitai.com", "civitai.red", "www.civitai.red")


def operator_sources(settings: Settings, threads: Threads) -> Sources:
    """Make the sources of URLs that the operator wrote, as those of a manifest.

    Raises:
        SettingsError: credentials are set that cannot be sent.
    """
    return Sources(source_settings(settings), AddressPolicy("*"), threads)


def source_settings(settings: Settings) -> SourceSettings:
    """Give what is set for the providers.

    Raises:
        SettingsError: credentials are set that cannot be sent.
    """
    return SourceSettings(
        defaults=_defaults(settings),
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
        local_roots=(Path("/"),),
    )


def _defaults(settings: Settings) -> tuple[Credential, ...]:
    """Give the credentials of http(s) hosts; the first that matches counts."""
    found: list[Credential] = []
    name = "CIVITAI_API_TOKEN"
    try:
        if settings.civitai_token:
            bearer = BearerAuth(token=SecretStr(settings.civitai_token))
            found += (
                Credential(url_pattern=f"https://{host}/**", auth=bearer) for host in _CIVITAI
            )
        name = "HTTP_AUTH_HEADER_NAME and HTTP_AUTH_HEADER_VALUE"
        if settings.http_auth_name:
            header = HeaderAuth(
                header_name=settings.http_auth_name,
                header_value=SecretStr(settings.http_auth_value),
            )
            found.append(Credential(url_pattern="**", auth=header))
    except ValidationError as error:
        raise SettingsError(f"{name}: {error.errors()[0]['msg']}") from None
    return tuple(found)
