"""Which source a URL is for. A provider's part of the code, and its library, load on first use."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from handler.errors import InputFailed
from handler.inputs.address import AddressPolicy
from handler.inputs.redact import redacted
from handler.transfer.hub_urls import is_repository_page, names_a_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.credentials import Credential
    from handler.metrics import Metrics
    from handler.settings import Settings
    from handler.transfer.azure_source import AzureAccount, AzureSource
    from handler.transfer.base import Source
    from handler.transfer.civitai_source import CivitaiSource
    from handler.transfer.gcs_source import GcsSource
    from handler.transfer.hf_source import HfSource
    from handler.transfer.http_source import HttpSource
    from handler.transfer.hub_http_source import HubHttpSource
    from handler.transfer.local_source import LocalSource
    from handler.transfer.s3_source import S3Source
    from handler.transfer.threads import Threads

_HUB = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_CIVITAI_LINK = "/api/download/models/"
CIVITAI = ("civitai.com", "www.civitai.com", "civitai.red", "www.civitai.red")
# Where RunPod keeps the models that an endpoint was told to have; there on its machines only.
_RUNPOD_CACHE = Path("/runpod-volume/huggingface-cache/hub")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """What the operator set for the providers; each is None or empty where nothing is.

    Attributes:
        defaults: credentials of URLs that come without, for http(s).
        s3_region, s3_endpoint: AWS_REGION (or AWS_DEFAULT_REGION) and AWS_ENDPOINT_URL; the keys
            are found by boto3.
        s3_reserved: bucket and prefix of STATE_URL, `bucket/prefix/`, which the operator's keys are
            not for; "" for none.
        header_withheld: HTTP_AUTH_HEADER_* is set, and goes to few of these URLs or none.
        hf_token, hf_endpoint, hf_cache: HF_TOKEN, HF_ENDPOINT, HF_HUB_CACHE; huggingface_hub
            reads them by itself, too.
        hf_more_caches: looked into after that one, and never written to.
        hf_over_http: links of the hub are fetched as they are, for want of huggingface_hub.
        google_key_file: GOOGLE_APPLICATION_CREDENTIALS.
        civitai_hosts: whose download links are looked up in the API, each with a port or not.
        local_roots: folders that files may be taken from.
    """

    defaults: tuple[Credential, ...] = ()
    header_withheld: bool = False
    s3_region: str | None = None
    s3_endpoint: str | None = None
    s3_reserved: str = ""
    azure: AzureAccount | None = None
    hf_token: str | None = field(default=None, repr=False)
    hf_endpoint: str | None = None
    hf_cache: Path | None = None
    hf_more_caches: tuple[Path, ...] = (_RUNPOD_CACHE,)
    hf_over_http: bool = field(default_factory=lambda: find_spec("huggingface_hub") is None)
    google_key_file: Path | None = None
    google_endpoint: str = "https://storage.googleapis.com"
    civitai_hosts: tuple[str, ...] = CIVITAI
    local_roots: tuple[Path, ...] = ()
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 30.0


class Sources:
    """Gives the source of a URL: `Downloader(Sources(...), threads=...)`.

    Args:
        policy: where URLs may lead; `AddressPolicy("*")` for the operator's own.
        anew: makes `settings` of settings that were read again.
    """

    def __init__(
        self,
        settings: SourceSettings,
        policy: AddressPolicy,
        threads: Threads,
        *,
        anew: Callable[[Settings], SourceSettings] | None = None,
    ) -> None:
        self._settings = settings
        self._anew = anew
        self._policy = policy
        self._threads = threads
        self._made: dict[str, Source] = {}
        self._free: HttpSource | None = None

    def __call__(self, url: str) -> Source:
        """Pick by scheme and host.

        Raises:
            InputFailed: no source takes such URLs.
        """
        name = self.kind(url)
        if name not in self._made:
            self._made[name] = _MAKERS[name](self)
        return self._made[name]

    def renew(self, settings: Settings | None = None) -> None:
        """Forget connections, tokens and clients; downloads under way keep theirs.

        Args:
            settings: read again; None where they are as they were.

        Raises:
            SettingsError: credentials are set that cannot be sent.
        """
        if settings is not None and self._anew is not None:
            self._settings = self._anew(settings)
        self._made, self._free = {}, None

    def counting(self, metrics: Metrics) -> Callable[[str, int], None]:
        """Give what counts the bytes of downloads by the kind of their source."""
        return lambda url, count: metrics.took_in(self.kind(url), count)

    def kind(self, url: str) -> str:
        """Tell which source a URL is for: `http`, `s3`, `gs`, `azure`, `hf`, `civitai`, `file`.

        Raises:
            InputFailed: no source takes such URLs.
        """
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").rstrip(".")
        except ValueError as fault:
            raise InputFailed(f"not a valid URL: {redacted(url)}") from fault
        if parts.scheme in {"s3", "gs", "file"}:
            return parts.scheme
        if not parts.scheme and url.startswith("/"):
            return "file"
        if parts.scheme not in {"http", "https"}:
            raise InputFailed(
                f"no source takes {parts.scheme[:40]}: URLs",
                hint="use http(s)://, s3://, gs://, or a link of Hugging Face",
            )
        if host in _HUB or parts.netloc == self._own_hub():
            if names_a_file(parts.path):
                return "hf"
            if is_repository_page(parts.path):
                raise _no_file(url)
        if parts.path.startswith(_CIVITAI_LINK) and self._is_civitai(host, parts.netloc):
            return "civitai"
        if _is_azure(host, parts.path):
            return "azure"
        return "http"

    def _is_civitai(self, *names: str) -> bool:
        return any(name in self._settings.civitai_hosts for name in names)

    def _own_hub(self) -> str:
        return urlsplit(self._settings.hf_endpoint or "").netloc or "huggingface.co"

    def checked(self) -> HttpSource:
        """Give the source of plain http(s) URLs, under the policy."""
        from handler.transfer.http_source import HttpSource

        if "http" not in self._made:
            self._made["http"] = self._http(self._policy)
        source = self._made["http"]
        assert isinstance(source, HttpSource)
        return source

    def free(self) -> HttpSource:
        """Give one for endpoints that the operator named."""
        if self._free is None:
            self._free = self._http(AddressPolicy("*"))
        return self._free

    def _http(
        self, policy: AddressPolicy, defaults: tuple[Credential, ...] | None = None
    ) -> HttpSource:
        from handler.transfer.http_source import HttpSource

        return HttpSource(
            policy,
            self._threads,
            defaults=self._settings.defaults if defaults is None else defaults,
            connect_timeout_s=self._settings.connect_timeout_s,
            idle_timeout_s=self._settings.idle_timeout_s,
            header_withheld=self._settings.header_withheld,
        )

    def s3(self) -> S3Source:
        """Make the source of `s3://` URLs."""
        from handler.transfer.s3_source import S3Source

        set_ = self._settings
        return S3Source(
            self.checked(),
            self.free(),
            self._threads,
            region=set_.s3_region,
            endpoint=set_.s3_endpoint,
            reserved=set_.s3_reserved,
        )

    def azure(self) -> AzureSource:
        """Make the source of Azure's blobs."""
        from handler.transfer.azure_source import AzureSource

        return AzureSource(self.checked(), self.free(), self._threads, self._settings.azure)

    def gcs(self) -> GcsSource:
        """Make the source of `gs://` URLs."""
        from handler.transfer.gcs_source import GcsSource

        set_ = self._settings
        return GcsSource(
            self.free(),
            self._threads,
            key_file=set_.google_key_file,
            endpoint=set_.google_endpoint,
        )

    def hf(self) -> HfSource | HubHttpSource:
        """Make the source of Hugging Face's files."""
        from handler.transfer.hf_source import HfSource

        set_ = self._settings
        if set_.hf_over_http:
            return self._hub_over_http()
        return HfSource(
            self._threads,
            token=set_.hf_token,
            endpoint=set_.hf_endpoint,
            cache_dir=set_.hf_cache,
            more_caches=set_.hf_more_caches,
        )

    def _hub_over_http(self) -> HubHttpSource:
        from handler.credentials import BearerAuth, Credential
        from handler.transfer.hub_http_source import HubHttpSource

        set_ = self._settings
        hub = set_.hf_endpoint or "https://huggingface.co"
        defaults: tuple[Credential, ...] = ()
        if set_.hf_token:
            auth = BearerAuth(token=SecretStr(set_.hf_token))
            defaults = (Credential(url_pattern=f"{hub}/**", auth=auth),)
        # A hub of the operator's own may be anywhere.
        policy = AddressPolicy("*") if set_.hf_endpoint else self._policy
        return HubHttpSource(self._http(policy, defaults), hub)

    def civitai(self) -> CivitaiSource:
        """Make the source of Civitai's download links."""
        from handler.transfer.civitai_source import CivitaiSource

        return CivitaiSource(self.checked(), self._threads)

    def local(self) -> LocalSource:
        """Make the source of local paths."""
        from handler.transfer.local_source import LocalSource

        return LocalSource(self._settings.local_roots, self._threads)


_MAKERS: dict[str, Callable[[Sources], Source]] = {
    "http": Sources.checked,
    "s3": Sources.s3,
    "azure": Sources.azure,
    "gs": Sources.gcs,
    "hf": Sources.hf,
    "civitai": Sources.civitai,
    "file": Sources.local,
}


def _no_file(url: str) -> InputFailed:
    return InputFailed(
        f"{redacted(url)} is a page of Hugging Face, not a file",
        hint="take the download link of one of its files: .../resolve/main/<file>",
    )


def _is_azure(host: str, path: str) -> bool:
    emulator = "azurite" in host or "devstoreaccount" in f"{host}{path}"
    return host.endswith(".blob.core.windows.net") or emulator
