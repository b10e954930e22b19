"""Speaks with a platform's REST API, and words what it refuses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

from local_server.deploy.faults import DeployFailed
from local_server.deploy.secret import revealed, scrubbed, secrets_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import httpx

    from local_server.deploy.plan import Request

_TIMEOUT_S = 60.0
_MOST_SAID = 2000


class Api:
    """One platform's API with one key. A request is sent once: creating twice is worse than not.

    Attributes:
        fields: the keys of deploy.yaml by the platform's names of fields.
    """

    def __init__(
        self,
        platform: str,
        base_url: str,
        headers: Mapping[str, str],
        *,
        key_name: str,
        fields: Mapping[str, str],
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        import httpx

        self.platform, self.base_url = platform, base_url.rstrip("/")
        self.fields = fields
        self._key_name = key_name
        self._secrets = set(headers.values()) | {
            word for value in headers.values() for word in value.split()[1:]
        }
        self._client = httpx.Client(headers=dict(headers), timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, path: str, *, missing_ok: bool = False) -> Any:
        """Read; None for what is not there, where that is allowed.

        Raises:
            DeployFailed: it cannot be read.
        """
        answer = self._call("GET", f"{self.base_url}{path}", set())
        if answer.status_code == 404 and missing_ok:
            return None
        return self._json("GET", path, answer, set())

    def items(self, path: str, key: str) -> list[dict[str, Any]]:
        """Read a list that stands below a key.

        Raises:
            DeployFailed: it cannot be read, or is none.
        """
        answer = self.get(path)
        found = answer.get(key) if isinstance(answer, dict) else None
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise DeployFailed(
                f"{self.platform} answered GET {path} without a list of {key}",
                hint=f"is {self.base_url} its API?",
            )
        return found

    def send(self, request: Request) -> Any:
        """Write.

        Raises:
            DeployFailed: it was refused, or nobody knows.
        """
        secrets = secrets_in(dict(request.body))
        answer = self._call(
            request.method,
            request.url,
            secrets,
            json=revealed(dict(request.body)),
            headers={"Content-Type": request.content_type},
        )
        return self._json(request.method, request.url, answer, secrets)

    def _call(self, method: str, url: str, secrets: set[str], **given: Any) -> httpx.Response:
        import httpx

        try:
            return self._client.request(method, url, **given)
        except httpx.ConnectError as error:
            raise self._failed(
                f"{self.platform} cannot be reached at {self.base_url}: {error}",
                "look at the network, a proxy, and the platform's status page",
                secrets,
                retryable=True,
            ) from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            unsure = "" if method == "GET" else "; it may have been done all the same"
            raise self._failed(
                f"{self.platform} gave no answer to {method} {url}: {error!r}{unsure}",
                "run the same command again, it looks first",
                secrets,
                retryable=True,
            ) from error

    def _json(self, method: str, path: str, answer: httpx.Response, secrets: set[str]) -> Any:
        if not answer.is_success:
            raise self._refused(method, path, answer, secrets)
        try:
            return answer.json()
        except (ValueError, RecursionError) as error:
            what = f"{self.platform} answered {method} {path} with no JSON"
            hint = f"is {self.base_url} its API?"
            raise self._failed(what, hint, secrets) from error

    def _refused(
        self, method: str, path: str, answer: httpx.Response, secrets: set[str]
    ) -> DeployFailed:
        said, fields = told(answer)
        said = scrubbed(said, secrets | self._secrets)[:_MOST_SAID]  # no half of one is left
        what = f"{self.platform} answered {method} {path} with {answer.status_code}: {said}"
        hint = self._hint(answer.status_code, answer.headers.get("Retry-After"))
        meant = sorted({ours for field in fields if (ours := self._ours(field))})
        if meant:
            hint = f"in deploy.yaml that is {', '.join(meant)}; {hint}"
        return self._failed(
            what, hint, secrets, retryable=answer.status_code in (429, *range(500, 600))
        )

    def _failed(
        self, what: str, hint: str, secrets: set[str], *, retryable: bool = False
    ) -> DeployFailed:
        known = secrets | self._secrets
        return DeployFailed(scrubbed(what, known), hint=scrubbed(hint, known), retryable=retryable)

    def _hint(self, status: int, wait: str | None) -> str:
        hints = {
            401: f"{self._key_name} is not accepted: is it whole, and not revoked?",
            403: f"the key of {self._key_name} may not do this, or a quota is used up",
            404: "names of organizations, projects and ids are exact: look at them in the portal",
            409: "something of that name is there already; if it was made just now, run again",
            429: f"too many requests: try again in {wait} s" if wait else "too many requests: wait",
        }
        if status in hints:
            return hints[status]
        return "mend it there" if status < 500 else "a fault of the platform: run it again later"

    def _ours(self, field: str) -> str | None:
        """Find the key of deploy.yaml that a platform's field comes from: the longest that fits."""
        steps = field.lower().split(".")
        while steps:
            if ours := self.fields.get(".".join(steps)):
                return ours
            steps.pop()
        return None


def told(answer: httpx.Response) -> tuple[str, list[str]]:
    """Give what an error answer says, and the fields that it names.

    Both platforms send RFC 9457's problem details; `errors` is a list of texts (RunPod), or texts
    by field (Salad).
    """
    try:
        body = answer.json()
    except (ValueError, RecursionError):
        return (" ".join(answer.text.split()) or answer.reason_phrase), []
    if not isinstance(body, dict):
        return str(body), []
    parts = [body[key] for key in ("title", "detail", "message") if isinstance(body.get(key), str)]
    fields: list[str] = []
    errors = body.get("errors") or []
    if isinstance(errors, dict):
        for field, problems in errors.items():
            fields.append(re.sub(r"\[\d+\]", "", str(field)).removeprefix("$."))
            listed = problems if isinstance(problems, list) else [problems]
            parts.append(f"{field}: {', '.join(map(str, listed))}")
    elif isinstance(errors, list):
        for problem in map(str, errors):
            parts.append(problem)
            field = problem.partition(":")[0]
            fields.append(re.sub(r"\[\d+\]", "", field).replace("/", ".").strip("$. "))
    return "; ".join(dict.fromkeys(parts)) or answer.reason_phrase, fields
