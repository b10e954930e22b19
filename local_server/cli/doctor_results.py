"""What `comfyfn doctor` tells of where results go: state, kept outputs, webhooks, uploads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from local_server.cli.findings import Finding

if TYPE_CHECKING:
    from handler.settings import Settings


def result_findings(settings: Settings) -> list[Finding]:
    """Look at everything that answers later, or elsewhere, need. Changes nothing."""
    return [
        *_state(settings),
        _kept(settings),
        *_webhooks(settings),
        *_uploads(settings),
    ]


def _state(settings: Settings) -> list[Finding]:
    folders = {"STATE_DIR": settings.state_folder}
    findings = []
    if settings.state_url:
        parts = urlsplit(settings.state_url)
        if parts.scheme == "s3":
            text = f"records and outputs are under s3://{parts.netloc}{parts.path}, not asked now"
            findings.append(Finding("ok", "state", text))
        else:
            path = unquote(parts.path) if parts.scheme == "file" else settings.state_url
            folders["STATE_URL"] = Path(path).expanduser().absolute()
    for name, folder in folders.items():
        if _writable(folder):
            findings.append(Finding("ok", "state", f"{name} is {folder}"))
        else:
            level = "bad" if name == "STATE_URL" else "warn"
            text = f"{name}={folder} cannot be written: jobs and webhooks do not survive a restart"
            findings.append(Finding(level, "state", text))
    return findings


def _writable(folder: Path) -> bool:
    """Tell whether a folder can be written, or made where it is not there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _kept(settings: Settings) -> Finding:
    if settings.output_retention_s <= 0:
        text = "outputs are not kept (OUTPUT_RETENTION_S=0): jobs that nobody waits for need an "
        return Finding("warn", "outputs", text + "upload or a webhook")
    limit = f", {settings.output_max_mb} MiB at most" if settings.output_max_mb else ""
    return Finding("ok", "outputs", f"kept for {settings.output_retention_s:g} s{limit}")


def _webhooks(settings: Settings) -> list[Finding]:
    from handler.outbox.journal import Journal
    from handler.outbox.records import outbox_folder

    if settings.webhook_secret:
        findings = [Finding("ok", "webhooks", "signed by WEBHOOK_SECRET")]
    else:
        text = "not signed: receivers cannot tell them from others; set WEBHOOK_SECRET"
        findings = [Finding("warn", "webhooks", text)]
    try:
        journal = Journal(outbox_folder(settings), None)
        pending = [letter for letter in journal.pending() if not letter.promise]
        dead = journal.dead()
    except OSError as error:
        return [*findings, Finding("warn", "webhooks", f"cannot be read: {error.strerror}")]
    if pending or dead:
        text = f"{len(pending)} pending, {len(dead)} given up: `comfyfn outbox list`"
        findings.append(Finding("warn" if dead else "ok", "webhooks", text))
    return findings


def _uploads(settings: Settings) -> list[Finding]:
    from handler.pipeline.storage import UploadProviders
    from handler.settings import SettingsError

    set_up = {
        "s3": settings.aws_region or settings.aws_default_region,
        "azure_blob_upload": settings.azure_connection or settings.azure_account,
        "hf_upload": settings.hf_token,
        "gcs_upload": settings.google_key_file,
        "volume": settings.allow_volumes,
    }
    ready = [name for name, value in set_up.items() if value]
    text = f"set up: {', '.join([*ready, 'http_upload', 'presigned'])}"
    if others := [name for name, value in set_up.items() if not value]:
        text += f"; not set up, so that a request must bring its own keys: {', '.join(others)}"
    findings = [Finding("ok", "uploads", text)]
    try:
        UploadProviders(settings)
    except SettingsError as error:
        return [*findings, Finding("bad", "uploads", str(error))]
    findings += (
        Finding("warn", "uploads", f"ALLOW_VOLUMES: {folder} is not writable")
        for folder in settings.allow_volumes
        if not _writable(folder)
    )
    if settings.inline_max_mb and not settings.output_storage:
        text = f"results over {settings.inline_max_mb} MiB are refused: OUTPUT_STORAGE is not set"
        findings.append(Finding("warn", "uploads", text))
    return findings
