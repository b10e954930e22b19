"""The image's HEALTHCHECK: is the server there, and does it work?

A worker of a RunPod queue has no port: its platform hears from it by itself.
"""

from __future__ import annotations

import http.client
import os
import sys

LIMIT_S = 5.0


def main() -> int:
    """Ask /health; the status is 0 when all is well or on its way up."""
    if os.environ.get("RUNPOD_WEBHOOK_GET_JOB") or os.environ.get("ADAPTER") == "runpod":
        return 0
    host = os.environ.get("HOST") or "127.0.0.1"
    port = int(os.environ.get("PORT") or 3000)
    asked = http.client.HTTPConnection(
        "127.0.0.1" if host in {"0.0.0.0", "::"} else host,  # noqa: S104
        port,
        timeout=LIMIT_S,
    )
    try:
        asked.request("GET", "/health")
        status = asked.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"port {port} does not answer: {error}\n")
        return 1
    finally:
        asked.close()
    sys.stderr.write(f"/health answers with {status}\n")
    return 0 if status < http.client.INTERNAL_SERVER_ERROR else 1


if __name__ == "__main__":
    sys.exit(main())
