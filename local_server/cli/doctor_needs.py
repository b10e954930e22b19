"""What `comfyfn doctor` tells of the manifest: its faults, what it requires, and whom it asks."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from handler.errors import BootFailed
from handler.inputs.redact import redacted
from local_server.cli.findings import Finding
from local_server.cli.sizes import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from handler.manifest.records import Manifest, Requires
    from handler.settings import Settings

EXTRAS = {
    "s3": "boto3",
    "huggingface": "huggingface_hub",
    "azure": "azure.storage.blob",
    "gcs": "google.auth",
}


def need_findings(settings: Settings, kind: str) -> list[Finding]:
    """Hold the manifest against this machine. Installs and fetches nothing.

    Args:
        kind: of the engine.
    """
    from handler.manifest.faults import ManifestInvalid
    from handler.manifest.schema import read_manifest

    try:
        manifest = read_manifest(
            settings.manifest, settings.manifest_json, allow_local_git=settings.manifest_local_git
        )
    except ManifestInvalid as error:
        source = "MANIFEST_JSON" if settings.manifest_json.strip() else settings.manifest
        faults = [Finding("bad", "manifest", f"{source}: {fault}") for fault in error.faults]
        return [*faults, *_extras(settings, None), *_proxy(settings)]
    findings = []
    if manifest is not None:
        findings.append(Finding("ok", "manifest", _summary(manifest)))
        if manifest.requires is not None:
            findings += _requires(manifest.requires, settings, kind)
    return [*findings, *_extras(settings, manifest), *_proxy(settings)]


def _proxy(settings: Settings) -> list[Finding]:
    proxy = settings.https_proxy or settings.http_proxy
    text = f"downloads do not go through {proxy}: the hosts of models are connected to"
    return [Finding("warn", "proxy", text)] if proxy else []


def _summary(manifest: Manifest) -> str:
    counts = {
        "Debian package": len(manifest.apt),
        "Python package": len(manifest.pip),
        "node pack": len(manifest.custom_nodes),
        "model": len(manifest.models),
        "named model": len(manifest.catalogue),
    }
    told = ", ".join(counted(count, name) for name, count in counts.items() if count)
    return f"{manifest.source}: {told or 'nothing to do'}"


# -- requires -------------------------------------------------------------------------------------


def _requires(needs: Requires, settings: Settings, kind: str) -> Iterator[Finding]:
    from handler.engine.free_memory import usable_memory

    if needs.ram_gb is not None:
        yield _amount("RAM", needs.ram_gb, usable_memory() >> 20, "this machine has")
    if needs.vram_gb is not None and kind == "comfyui":
        yield _vram(needs.vram_gb, settings)
    if needs.gpu is not None:
        yield Finding("ok", "requires", f"a GPU that does well: {needs.gpu}")


def _vram(wanted: float, settings: Settings) -> Finding:
    from handler.engine.command import interpreter
    from handler.engine.preflight import preflight

    try:
        found = preflight(interpreter(settings))
    except BootFailed as error:
        return Finding("warn", "requires", f"{wanted:g} GB of VRAM; {error.message}")
    if not found.usable or found.vram_mb is None:
        why = found.reason or "how much there is is not known"
        return Finding("warn", "requires", f"{wanted:g} GB of VRAM; {why}")
    return _amount("VRAM", wanted, found.vram_mb, f"{found.gpu} has")


def _amount(what: str, wanted: float, there_mb: int, who: str) -> Finding:
    from handler.manifest.needs import lacks

    told = f"{wanted:g} GB of {what}; {who} {there_mb / 1024:.1f} GiB"
    return Finding("warn" if lacks(wanted, there_mb) else "ok", "requires", told)


# -- extras ---------------------------------------------------------------------------------------


def _extras(settings: Settings, manifest: Manifest | None) -> list[Finding]:
    """Tell which providers' libraries are here, and which are missing for what is set."""
    here = [extra for extra, module in EXTRAS.items() if _installed(module)]
    findings = [Finding("ok", "extras", f"installed: {', '.join(here) or 'none'}")]
    for extra, why in _wanted(settings, manifest).items():
        if extra not in here:
            get = f"pip install 'comfyfn[{extra}]'"
            if extra == "huggingface":  # its links are had without, too
                text = f"{why}: over plain HTTPS, as its own client is missing: {get}"
                findings.append(Finding("ok", "extras", text))
            else:
                findings.append(Finding("warn", "extras", f"{why} needs {extra}: {get}"))
    return findings


def _wanted(settings: Settings, manifest: Manifest | None) -> dict[str, str]:
    set_ = {
        "s3": settings.aws_endpoint and "AWS_ENDPOINT_URL",
        "huggingface": settings.hf_token and "HF_TOKEN",
        "azure": (settings.azure_connection or settings.azure_account)
        and "the Azure account that is set",
        "gcs": settings.google_key_file and "GOOGLE_APPLICATION_CREDENTIALS",
    }
    wanted = {extra: str(why) for extra, why in set_.items() if why}
    if manifest is not None:
        for model in (*manifest.models, *manifest.catalogue.values()):
            for url in model.urls:
                extra = _provider(url, settings.hf_endpoint)
                if extra is not None:
                    wanted.setdefault(extra, redacted(url))
    return wanted


def _provider(url: str, hub: str) -> str | None:
    """Give the extra that a URL is fetched with; None for none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme in {"s3", "gs"}:
        return {"s3": "s3", "gs": "gcs"}[parts.scheme]
    if host in {"huggingface.co", "www.huggingface.co", "hf.co"} or (
        hub and parts.netloc == urlsplit(hub).netloc
    ):
        return "huggingface"
    return "azure" if host.endswith(".blob.core.windows.net") else None


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # the package above it is missing
        return False
