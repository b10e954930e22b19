"""Bring SaladCloud's queue worker into a folder: `salad_worker.py URL SHA256 FOLDER`.

Without a URL the folder is made, and stays empty.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path

NAME = "salad-http-job-queue-worker"
LIMIT_S = 60.0


def main(url: str, sha256: str, folder: Path) -> None:
    """Fetch, check and unpack it.

    Raises:
        SystemExit: it is not what was meant.
        OSError: it cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not url:
        return
    if not url.startswith(("https://", "http://127.0.0.1:")):
        sys.exit(f"{url}: not over https")
    with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:  # noqa: S310  looked at above
        content: bytes = answer.read()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256.lower():
        sys.exit(f"{url} has sha256 {found}, and not {sha256 or 'none, which must be given'}")
    path = folder / NAME
    path.write_bytes(_binary(content) if url.endswith((".tar.gz", ".tgz")) else content)
    path.chmod(0o755)


def _binary(content: bytes) -> bytes:
    """Take the program out of its archive, wherever in it it lies."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            if member.isfile() and Path(member.name).name == NAME:
                part = archive.extractfile(member)
                if part is not None:
                    return part.read()
    sys.exit(f"there is no {NAME} in the archive")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
