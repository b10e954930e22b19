"""Tokens of the operator's Google service account, for writing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from handler.delivery.base import PutFailed

if TYPE_CHECKING:
    from pathlib import Path

    from handler.transfer.threads import Threads

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


class GoogleTokens:
    """Gets tokens, each once while it is good.

    Args:
        key_file: GOOGLE_APPLICATION_CREDENTIALS, the JSON key of a service account.
    """

    def __init__(self, key_file: Path, threads: Threads) -> None:
        self._key_file = key_file
        self._threads = threads
        self._account: Any = None
        self._lock = threading.Lock()

    async def token(self) -> str:
        """Give a token that is still good.

        Raises:
            PutFailed: Google gives none.
        """
        return await self._threads.call(self._token)

    def _token(self) -> str:
        from google.auth.exceptions import GoogleAuthError, TransportError
        from google.auth.transport.requests import Request
        from google.oauth2 import service_account

        try:
            with self._lock:
                if self._account is None:
                    load: Any = service_account.Credentials.from_service_account_file
                    self._account = load(str(self._key_file), scopes=[_SCOPE])
                if not self._account.valid:
                    self._account.refresh(Request())
                return str(self._account.token)
        except TransportError as fault:
            raise PutFailed("Google's tokens cannot be reached", passing=True) from fault
        except (GoogleAuthError, OSError, ValueError) as fault:
            raise PutFailed(
                "Google gives no token for GOOGLE_APPLICATION_CREDENTIALS",
                passing=False,
                hint="the file must be the JSON key of a service account that may write to it",
            ) from fault
