"""`azure_blob_upload`: block blobs of Azure, and of its emulator."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from handler.delivery.base import PutFailed, Stored, allowed, need, not_configured, unreadable
from handler.delivery.names import disposition, escaped, plain
from handler.delivery.pinned import Lines, dialled, pinned_session
from handler.delivery.strike import secrets_of
from handler.transfer.azure_source import AzureAccount

if TYPE_CHECKING:
    from handler.delivery.base import Progress, Upload
    from handler.inputs.address import AddressPolicy
    from handler.targets import AzureTarget
    from handler.transfer.threads import Threads

_PORTS = {"http": 80, "https": 443}
_PARTS_AT_ONCE = 4
_HINTS = {
    "ContainerNotFound": "make the container first, or name another one",
    "AuthorizationPermissionMismatch": "the rights to create and write blobs are needed",
    "AuthenticationFailed": "the key is not the account's, or the SAS token is not valid",
    "AuthorizationFailure": "the account does not let this worker in",
    "AccountIsDisabled": "the account is disabled",
}


# Container and blob are what the request says.
_PLACE_CODES = frozenset(
    {
        *("ContainerNotFound", "ContainerDisabled", "ResourceNotFound", "InvalidUri"),
        *("InvalidResourceName", "InvalidBlobType"),
    }
)


class _Left(Exception):
    """The upload was cancelled; the way out of the library's loop."""


class AzureUploader:
    """Uploads blobs: small ones in one request, large ones in blocks.

    Args:
        account: the operator's.
        policy: for accounts and endpoints that the request names.
        block_bytes: size of a block, and up to which a file goes in one request.
    """

    kind = "azure_blob_upload"
    waits = False

    def __init__(
        self,
        target: AzureTarget,
        account: AzureAccount,
        policy: AddressPolicy,
        threads: Threads,
        *,
        block_bytes: int = 16 << 20,
    ) -> None:
        self._target = target
        self._policy = policy
        self._threads = threads
        self._block_bytes = block_bytes
        self.own_credentials = target.auth is not None
        self._account = _of_request(target) or account
        self._service: Any = None
        self._url = ""
        self._lines = Lines()
        self._opening = asyncio.Lock()
        self._lock = threading.Lock()
        given = self._account
        self.secrets = secrets_of(
            target, *filter(None, (given.connection_string, given.key, given.sas_token))
        )

    def location(self, key: str) -> str:
        """Give the URL; documented at the port."""
        return f"{self._url or self._account.account}/{self._target.container}/{plain(key)}"

    async def check(self) -> None:
        """Look for library, account and a right endpoint; documented at the port."""
        need("azure.storage.blob", self.kind, "azure")
        if self._account == AzureAccount():
            raise not_configured(
                self.kind,
                "this worker is not set up for Azure",
                "the operator sets AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with "
                "AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or the request brings "
                f"{self.kind}.auth",
            )
        if self._target.endpoint and not self.own_credentials:
            raise not_configured(
                self.kind,
                "an endpoint of the request's own takes the request's own account",
                f"send {self.kind}.auth",
            )
        service = await self._open()
        if self._target.presign_s and not getattr(service.credential, "account_key", None):
            raise not_configured(
                self.kind,
                "presign_s needs the account's key to sign with",
                f"leave {self.kind}.presign_s out, or use an account key",
            )

    async def _open(self) -> Any:
        """Make the client of the account; one that the request names is held to the policy."""
        async with self._opening:  # one at a time: a client that nobody knows is never closed
            if self._service is None:
                service = await self._threads.call(lambda: self._new(None))
                if self.own_credentials:
                    session = await self._pinned(service.url)
                    service = await self._threads.call(lambda: self._new(session))
                self._service, self._url = service, service.url.partition("?")[0].rstrip("/")
            return self._service

    async def _pinned(self, url: str) -> Any:
        """Hold the account's host to the policy, and make a session that goes there only."""
        try:
            parts = urlsplit(url.partition("?")[0])
            port = parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError) as fault:
            raise not_configured(
                self.kind, "the request's account is at no http(s) URL", "correct its endpoint"
            ) from fault
        where = f"{self.kind}.auth"
        addresses = await allowed(self._policy, parts.hostname or "", port, where)
        self._lines = Lines()
        return pinned_session(f"{parts.scheme}://{parts.netloc}", dialled(addresses), self._lines)

    def _new(self, session: Any) -> Any:
        """Make a client. Blocking: importing the library takes its time.

        Raises:
            InvalidPayload: the account's form makes no sense.
        """
        from azure.core.pipeline.transport import RequestsTransport
        from azure.storage.blob import BlobServiceClient

        account, options = self._account, self._options()
        if session is not None:
            options["transport"] = RequestsTransport(session=session)
        try:
            if account.connection_string:
                made = BlobServiceClient.from_connection_string(
                    account.connection_string, **options
                )
            else:
                url = self._target.endpoint or f"https://{account.account}.blob.core.windows.net"
                made = BlobServiceClient(url, credential=self._credential(), **options)
        except (ValueError, KeyError) as fault:
            what = "the request's" if self.own_credentials else "the operator's"
            raise not_configured(
                self.kind,
                f"{what} account settings cannot be used",
                "a connection string has AccountName and AccountKey, or BlobEndpoint and "
                "SharedAccessSignature",
            ) from fault
        return made

    def _options(self) -> dict[str, Any]:
        from azure.storage.blob import LinearRetry

        size = self._block_bytes
        return {
            "retry_policy": LinearRetry(backoff=1, retry_total=2, random_jitter_range=1),
            "connection_timeout": 10,
            "read_timeout": 60,
            "max_block_size": size,
            "max_single_put_size": size,
        }

    def _credential(self) -> Any:
        account = self._account
        if account.key:
            return {"account_name": account.account, "account_key": account.key}
        if account.sas_token:
            core = importlib.import_module("azure.core.credentials")
            return core.AzureSasCredential(account.sas_token.lstrip("?"))
        need("azure.identity", self.kind, "azure")
        return importlib.import_module("azure.identity").DefaultAzureCredential()

    async def put(self, item: Upload, progress: Progress) -> Stored:
        """Upload a blob; documented at the port."""
        service = await self._open()
        left = threading.Event()
        etag = await self._threads.call(
            lambda: self._put(service, item, progress, left),
            abort=lambda: self._leave(service, left),
        )
        location = self.location(item.key)
        seconds = self._target.presign_s
        if not seconds:
            return Stored(location, location, etag)
        expires_at = int(time.time()) + seconds
        return Stored(self._link(service, item.key, expires_at), location, etag, expires_at)

    def _leave(self, service: Any, left: threading.Event) -> None:
        """End an upload; the request's own store may be one that never says its last word."""
        left.set()
        if self.own_credentials and service is self._service:
            self._service = None  # the next try has a client of its own
            self._lines.cut()
            service.close()

    def _put(
        self, service: Any, item: Upload, progress: Progress, left: threading.Event
    ) -> str | None:
        """Upload a blob and give its ETag. Blocking."""
        from azure.core.exceptions import AzureError
        from azure.storage.blob import ContentSettings

        target = self._target

        def tell(sent: int, _total: int | None) -> None:
            if left.is_set():
                raise _Left
            progress(sent)

        kind = target.content_disposition
        settings: Any = ContentSettings(
            content_type=item.content_type,
            cache_control=target.cache_control,
            content_disposition=disposition(kind, item.name) if kind else None,
        )
        try:
            blob = service.get_blob_client(target.container, item.key)
            with item.path.open("rb") as file:
                answer = blob.upload_blob(
                    file,
                    length=item.size,
                    overwrite=True,
                    content_settings=settings,
                    max_concurrency=_PARTS_AT_ONCE,
                    progress_hook=tell,
                )
        except (AzureError, ValueError) as fault:
            _tell(fault)
        except OSError as fault:
            raise unreadable(fault) from fault
        except _Left:
            raise PutFailed("the upload was ended", passing=False, whose="worker") from None
        return str(answer.get("etag") or "").strip('"') or None

    def _link(self, service: Any, key: str, expires_at: int) -> str:
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        token = generate_blob_sas(
            service.account_name,
            self._target.container,
            key,
            account_key=service.credential.account_key,
            permission=BlobSasPermissions(read=True),
            expiry=dt.datetime.fromtimestamp(expires_at, dt.UTC),
        )
        return f"{self._url}/{self._target.container}/{escaped(key)}?{token}"

    async def close(self) -> None:
        """Close the client; documented at the port."""
        service, self._service = self._service, None
        if service is not None:
            await self._threads.call(service.close)


def _of_request(target: AzureTarget) -> AzureAccount | None:
    auth = target.auth
    if auth is None:
        return None

    def clear(value: Any) -> str:
        return value.get_secret_value() if value else ""

    return AzureAccount(
        clear(auth.connection_string), auth.account or "", clear(auth.key), clear(auth.sas_token)
    )


def _tell(fault: Exception) -> NoReturn:
    """Tell a fault by status and code: the text has the request's headers and addresses in it."""
    from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError

    if isinstance(fault, HttpResponseError) and fault.status_code:
        status, named = fault.status_code, getattr(fault, "error_code", None)
        code = str(getattr(named, "value", named) or "")  # known ones are members of an enum
        raise PutFailed(
            f"{status} {code or fault.reason or ''}".strip(),
            passing=status in {408, 429} or status >= 500,
            status=status,
            code=code or None,
            hint=_HINTS.get(code),
            whose="place" if code in _PLACE_CODES else "store",
        ) from fault
    passing = isinstance(fault, (ServiceRequestError, ServiceResponseError))
    what = "the store cannot be reached" if passing else "the account settings cannot be used"
    raise PutFailed(f"{what} ({type(fault).__name__})", passing=passing) from fault
