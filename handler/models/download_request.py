"""The body of `POST /download`: what a caller wants fetched, and into which model folder. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from handler.credentials import Auth
from handler.errors import InvalidPayload
from handler.graph.nearest import nearest
from handler.payload import invalid_payload, refuse_misspelt

if TYPE_CHECKING:
    from handler.engine.model_folders import ModelFolders

_LONGEST_URL = 8192
# What links say about a file; whatever else is in a query may be a token or a signature.
_HARMLESS = re.compile(r"(?i)(download|format|fp|size|type)=[\w.-]{0,20}")


class DownloadRequest(BaseModel):
    """The body of `POST /download`. Unknown keys are ignored, as comfyui-api does."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    url: Annotated[str, Field(min_length=1, max_length=_LONGEST_URL)] = Field(
        repr=False,
        description=(
            "Where the file is: http(s), `s3://`, `gs://`, a link of Hugging Face, Civitai or "
            "Azure, or a path below ALLOW_PATHS."
        ),
    )
    model_type: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="A model folder of the engine's, as GET /models names them."
    )
    filename: str | None = Field(
        None, description="Its name there, without folders; default: the URL's last part."
    )
    wait: bool = Field(False, description="Answer when the file is there, not at once.")
    auth: Auth | None = Field(None, repr=False, description="For this URL and its origin only.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = Field(
        None, description="Of the content; another one is refused."
    )
    size: Annotated[int, Field(ge=0)] | None = Field(
        None, description="In bytes; another one is refused before anything is fetched."
    )


def parse_download(raw: Any) -> DownloadRequest:
    """Check a decoded JSON body.

    Raises:
        InvalidPayload: every fault with its path in `details`; a key that is nearly a known one
            is a fault, too.
    """
    if not isinstance(raw, dict):
        raise InvalidPayload("the body must be a JSON object with `url` and `model_type`")
    refuse_misspelt(raw, DownloadRequest.model_fields)
    try:
        request = DownloadRequest.model_validate(raw)
    except ValidationError as error:
        raise invalid_payload(error) from error
    if not _is_url(request.url):
        raise InvalidPayload(
            "url: not a valid URL",
            location="url",
            hint="it begins with https://, http://, s3:// or gs://",
        )
    return request


def _is_url(url: str) -> bool:
    """Tell whether it has a URL's form, or is a path: who takes it is asked later."""
    if any(mark.isspace() or not mark.isprintable() for mark in url):
        return False
    if url.startswith("/"):
        return True
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.scheme) and bool(parts.hostname or (parts.scheme == "file" and parts.path))


def last_segment(url: str) -> str:
    """Give the last part of a URL's path, escapes undone; "" where there is none."""
    try:
        path = urlsplit(url).path
    except ValueError:
        return ""
    return unquote(path.rstrip("/").rpartition("/")[2])


def echoed(url: str) -> str:
    """Give a URL as its own caller is shown it: as it was sent, without anything secret.

    User and password go, and so does every value of the query that may be a secret.
    """
    parts = urlsplit(url)
    if "@" not in parts.netloc and not parts.query and not parts.fragment:
        return url
    host = parts.netloc.rpartition("@")[2]
    query = "&".join(map(_without_value, parts.query.split("&")))
    return urlunsplit(parts._replace(netloc=host, query=query, fragment=""))


def _without_value(parameter: str) -> str:
    if not parameter or _HARMLESS.fullmatch(parameter):
        return parameter
    name, mark, _ = parameter.partition("=")
    return f"{name}=..." if mark else "..."


def folder_called(name: str, folders: ModelFolders) -> str:
    """Give the engine's name of a model folder.

    A folder may have another name on disk: comfyui-api's callers say `unet` and `clip`, where the
    engine says `diffusion_models` and `text_encoders`.

    Raises:
        InvalidPayload: there is no such folder; the hint names those there are, nearest first.
    """
    if name in folders.names:
        return name
    known = _on_disk(folders)
    owners = [owner for owner in known.get(name, ()) if owner in folders.names]
    if len(owners) == 1:
        return owners[0]
    near = nearest(name, folders.names, limit=5, cutoff=0.5)
    listed = [*near, *sorted(set(folders.names) - set(near))]
    raise InvalidPayload(
        f"model_type: the engine has no model folder {name[:80]!r}",
        location="model_type",
        hint=f"it has {', '.join(listed)}",
        details={"folders": listed},
    )


def _on_disk(folders: ModelFolders) -> dict[str, set[str]]:
    """Give, by a folder's last name on disk, what the engine calls it."""
    found: dict[str, set[str]] = {}
    for name, places in folders.paths.items():
        for place in places:
            found.setdefault(place.name, set()).add(name)
    return found
