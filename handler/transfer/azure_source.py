"""Blobs of Azure: `https://<account>.blob.core.windows.net/<container>/<blob>`, and its emulator.

The SDK reads URLs and connection strings and signs; the request itself is made like any other over
HTTP, for the reasons told in `s3_source.py`.
"""

from __future__ import annotations

import datetime as dt
import importlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from handler.credentials import Auth, BearerAuth, S3Auth
from handler.errors import InputFailed
from handler.inputs.redact import redacted
from handler.transfer.http_source import open_http, release_http

if TYPE_CHECKING:
    from handler.transfer.base import Body, Remote
    from handler.transfer.http_ask import Ask
    from handler.transfer.http_source import HttpSource
    from handler.transfer.threads import Threads

_VALID = dt.timedelta(hours=12)
_VERSION = "2021-08-06"  # the oldest that takes every form of token used here
_SCOPE = "https://storage.azure.com/.default"
_CLOUD = "blob.core.windows.net"
_EMULATED = "devstoreaccount1"  # its key is the same everywhere, and no secret
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class AzureAccount:
    """The operator's account, in one of four forms: connection string; account and key; account
    and SAS token; account alone, for the machine's own identity.
    """  # noqa: D205 - the forms are the sentence

    connection_string: str = field(default="", repr=False)
    account: str = ""
    key: str = field(default="", repr=False)
    sas_token: str = field(default="", repr=False)


class AzureSource:
    """Fetches blobs.

    Args:
        checked: for what callers name.
        free: for the operator's own account.
    """

    def __init__(
        self,
        checked: HttpSource,
        free: HttpSource,
        threads: Threads,
        account: AzureAccount | None = None,
    ) -> None:
        self._checked = checked
        self._free = free
        self._threads = threads
        self._account = account or AzureAccount()
        self._identity: Any = None

    async def stat(
        self,
        url: str,
        auth: Auth | None,
        start: int = 0,
        end: int | None = None,
        *,
        parts: bool = True,
    ) -> Remote:
        """Ask for the blob's beginning; documented at the port."""
        http, ask = await self._signed(url, auth)
        return await http.stat_ask(ask, url, start, end, parts=parts)

    async def open(self, remote: Remote, start: int, end: int | None) -> Body:
        """Begin reading a part; documented at the port."""
        return await open_http(remote, start, end)

    async def release(self, remote: Remote) -> None:
        """Close its connections; documented at the port."""
        release_http(remote)

    async def _signed(self, url: str, auth: Auth | None) -> tuple[HttpSource, Ask]:
        if isinstance(auth, S3Auth):
            raise InputFailed(f"{redacted(url)} takes no credentials of type s3")
        if auth is not None or "sig=" in url.partition("?")[2]:
            ask = self._checked.ask(url, auth)
            return self._checked, _versioned(ask) if isinstance(auth, BearerAuth) else ask
        signature, headers, ours = await self._threads.call(lambda: self._operators(url))
        http = self._free if ours else self._checked
        if not signature:
            ask = http.ask(url, None)
            return http, _versioned(replace(ask, headers=headers)) if headers else ask
        joined = f"{url}{'&' if '?' in url else '?'}{signature}"
        return http, http.ask_as(joined, url)

    def _operators(self, url: str) -> tuple[str, dict[str, str], bool]:
        """Give what the operator's account adds to a URL, and whether it is that account's.

        Blocking: an identity's token is asked for over the network.
        """
        if self._account == AzureAccount():
            return "", {}, False
        try:
            from azure.core.exceptions import AzureError
            from azure.storage.blob import BlobClient, BlobServiceClient
        except ImportError as fault:
            raise InputFailed(
                "links of Azure need azure-storage-blob",
                blame="image",
                hint="pip install 'comfyfn[azure]'",
            ) from fault
        account, name, key = self._account, self._account.account, self._account.key
        sas, endpoint = account.sas_token.lstrip("?"), ""
        try:
            blob = BlobClient.from_blob_url(url)
            if account.connection_string:
                service = BlobServiceClient.from_connection_string(account.connection_string)
                name, endpoint = service.account_name or "", service.primary_endpoint
                endpoint, _, sas = endpoint.partition("?")
                key = getattr(service.credential, "account_key", "")
            if not _at_home(url, name, endpoint):
                return "", {}, False
            if key:
                return _sas(name, key, blob.container_name, blob.blob_name), {}, True
            return (sas, {}, True) if sas else ("", self._token(), True)
        except (ValueError, AzureError) as fault:
            raise InputFailed(
                f"{redacted(url)}: the Azure settings cannot be used, or this is no blob's URL",
                hint="set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with "
                "AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN",
            ) from fault

    def _token(self) -> dict[str, str]:
        try:
            identity = importlib.import_module("azure.identity")
        except ImportError as fault:
            raise InputFailed(
                "an Azure account without key and SAS token needs azure-identity",
                blame="image",
                hint="pip install azure-identity, or set AZURE_STORAGE_KEY",
            ) from fault
        if self._identity is None:
            self._identity = identity.DefaultAzureCredential()
        return {"Authorization": f"Bearer {self._identity.get_token(_SCOPE).token}"}


def _at_home(url: str, account: str, endpoint: str) -> bool:
    """Tell whether a URL leads to the operator's own account, and nowhere that only looks like it.

    The SDK takes the first label of any host for the account's name: by that alone, a caller
    could have the operator's signature sent to a host of their own.

    Args:
        endpoint: of the connection string; "" for none.
    """
    parts, home = urlsplit(url), urlsplit(endpoint)
    if parts.username is not None or parts.password is not None:
        return False
    if endpoint:
        same = (parts.scheme, parts.netloc.lower()) == (home.scheme, home.netloc.lower())
        return same and parts.path.startswith(f"{home.path.rstrip('/')}/")
    if account == _EMULATED:
        return parts.hostname in _LOOPBACK and parts.path.startswith(f"/{account}/")
    return parts.scheme == "https" and parts.netloc.lower() == f"{account.lower()}.{_CLOUD}"


def _sas(account: str, key: str, container: str, blob: str) -> str:
    from azure.storage.blob import BlobSasPermissions, generate_blob_sas

    return generate_blob_sas(
        account,
        container,
        blob,
        account_key=key,
        permission=BlobSasPermissions(read=True),
        expiry=dt.datetime.now(dt.UTC) + _VALID,
    )


def _versioned(ask: Ask) -> Ask:
    return replace(ask, headers={**ask.headers, "x-ms-version": _VERSION})
