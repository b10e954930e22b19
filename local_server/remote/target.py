"""Where a job is to run: what `--to` says, read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from handler.errors import InvalidPayload

MODAL_CLASS = "Worker"
"""The class of `adapters/modal_app.py`."""

FORMS = "a URL, runpod:ENDPOINT, modal:APP, modal:APP/CLASS or salad:ORGANIZATION/PROJECT/QUEUE"
_RUNPOD = re.compile(r"[\w-]{1,64}", re.ASCII)
_MODAL = re.compile(r"[\w.-]{1,64}", re.ASCII)
_SALAD = re.compile(r"[a-z][a-z0-9-]{0,61}[a-z0-9]", re.ASCII)


@dataclass(frozen=True, slots=True)
class UrlTarget:
    """A server that speaks our HTTP API, or comfyui-api's.

    Attributes:
        url: without a slash at its end.
    """

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class RunpodTarget:
    """A queue-based endpoint of RunPod."""

    endpoint: str

    def __str__(self) -> str:
        return f"runpod:{self.endpoint}"


@dataclass(frozen=True, slots=True)
class ModalTarget:
    """A class of a deployed Modal app."""

    app: str
    cls: str = MODAL_CLASS

    def __str__(self) -> str:
        return f"modal:{self.app}/{self.cls}"


@dataclass(frozen=True, slots=True)
class SaladTarget:
    """A job queue of SaladCloud."""

    organization: str
    project: str
    queue: str

    def __str__(self) -> str:
        return f"salad:{self.organization}/{self.project}/{self.queue}"


Target = UrlTarget | RunpodTarget | ModalTarget | SaladTarget


def parse_target(text: str) -> Target:
    """Read `--to`.

    Raises:
        InvalidPayload: it is none of the forms.
    """
    kind, _, rest = text.partition(":")
    parts = rest.split("/")
    if kind in {"http", "https"}:
        return UrlTarget(_url(text))
    if kind == "runpod" and _RUNPOD.fullmatch(rest):
        return RunpodTarget(rest)
    if kind == "modal" and len(parts) <= 2 and all(map(_MODAL.fullmatch, parts)):
        return ModalTarget(*parts)
    if kind == "salad" and len(parts) == 3 and all(map(_SALAD.fullmatch, parts)):
        return SaladTarget(*parts)
    raise InvalidPayload(f"--to {_shown(text)}: it is none of {FORMS}")


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidPayload(f"--to {_shown(text)}: it is no URL: {error}") from error
    if not parts.hostname or port == 0 or any(mark.isspace() for mark in text):
        raise InvalidPayload(f"--to {_shown(text)}: it is no URL")
    if "@" in parts.netloc:
        raise InvalidPayload(
            f"--to {_shown(text)}: a password does not belong into a URL",
            hint="--header 'Authorization: ...' sends one",
        )
    if parts.query or parts.fragment:
        raise InvalidPayload(f"--to {_shown(text)}: it is the address of a server, without a query")
    return text.rstrip("/").removesuffix("/prompt")


def _shown(text: str) -> str:
    """Give it for a message: what may be a password is left out."""
    return text.partition("?")[0].partition("#")[0].rpartition("@")[2][:200]
