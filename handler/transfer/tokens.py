"""Which token a provider wants, by the host of the URL. Pure."""

from __future__ import annotations

_TOKENS = {
    "huggingface.co": "HF_TOKEN",
    "hf.co": "HF_TOKEN",
    "civitai.com": "CIVITAI_API_TOKEN",
    "civitai.red": "CIVITAI_API_TOKEN",
    "blob.core.windows.net": "AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN",
    "amazonaws.com": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "storage.googleapis.com": "GOOGLE_APPLICATION_CREDENTIALS",
}


def token_of(host: str) -> str | None:
    """Name the setting that holds the credentials for a host; None where none is known."""
    host = host.rstrip(".").lower()
    return next(
        (name for site, name in _TOKENS.items() if host == site or host.endswith(f".{site}")), None
    )


def denied_hint(host: str, *, header_withheld: bool = False) -> str:
    """Say what to do when a host wants credentials.

    Args:
        header_withheld: the operator has a header for hosts, and this one was not sent it.
    """
    token = token_of(host)
    if token is None:
        hint = f"send credentials for {host} with the request (`credentials` or `auth`)"
        if header_withheld:
            hint += (
                "; HTTP_AUTH_HEADER_NAME goes to callers' URLs of the origins in "
                "HTTP_AUTH_ALLOWED_ORIGINS only"
            )
        return hint
    return f"{host} wants credentials: set {token}, or send `credentials` or `auth`"
