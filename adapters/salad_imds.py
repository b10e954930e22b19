"""Salad's instance metadata service (IMDS): what an instance tells of itself, and asks for.

It is asked directly: a request that came through a proxy is refused there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import httpx

from handler.errors import PlatformError

if TYPE_CHECKING:
    from types import TracebackType

DEFAULT_URL = "http://169.254.169.254:80"
LONGEST_REASON = 1000
TIMEOUT_S = 5.0


class ImdsFailed(PlatformError):
    """The metadata service does not answer, or refuses."""

    code = "imds_failed"
    status = 502


class Imds:
    """A client of the service, for one event loop. Use it as a context.

    Args:
        url: the service's, without a path.
    """

    def __init__(self, url: str = DEFAULT_URL, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.AsyncClient(
            base_url=self._url, headers={"Metadata": "true"}, timeout=timeout_s, trust_env=False
        )

    def __repr__(self) -> str:
        return f"<Imds {self._url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def set_deletion_cost(self, cost: int) -> None:
        """Say what would be lost with this instance: the lowest are ended first.

        Raises:
            ImdsFailed: it was not taken.
        """
        await self._send("PUT", "/v1/deletion-cost", {"deletion_cost": cost})

    async def reallocate(self, reason: str) -> None:
        """Ask for another node in place of this one, which is left out for a while.

        Args:
            reason: for Salad's support; what is over 1000 characters is cut.

        Raises:
            ImdsFailed: it was not taken.
        """
        told = reason.strip()[:LONGEST_REASON] or "no reason was told"
        await self._send("POST", "/v1/reallocate", {"reason": told})

    async def _send(self, method: str, path: str, body: dict[str, Any]) -> None:
        try:
            answer = await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise ImdsFailed(f"{method} {path}: {why}") from error
        if answer.status_code == 404:
            raise ImdsFailed(f"{method} {path}: this instance is not known any more")
        if not answer.is_success:
            raise ImdsFailed(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
