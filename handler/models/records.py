"""What passes between those who want a model and those who have it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from handler.credentials import Auth


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model's bytes are to come from.

    Attributes:
        auth: the caller's, for this URL; None for none.
        sha256: of the content, lower-case hexadecimal, where the caller or a catalogue tells.
        size: in bytes, where they tell.
        operator: the operator wrote this URL: it may lead anywhere, and nobody's right is asked.
        suffix: how the file's name must end, `.safetensors`, where URL and source do not tell.
    """

    url: str = field(repr=False)
    auth: Auth | None = field(default=None, repr=False)
    sha256: str | None = None
    size: int | None = None
    operator: bool = False
    suffix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A whole, checked file in the store.

    Attributes:
        key: names the content: `sha256-<64 hex>` where it is known, else `url-<32 characters>`.
        path: its place in the store.
        leaf: a readable file name for it, one path segment, with its suffix.
        bytes: its size.
        fetched: False where it was there already.
        seconds: that the asking took.
        protected: it was had with a caller's credentials: each caller's right is checked.
    """

    key: str
    path: Path
    leaf: str
    bytes: int
    fetched: bool
    seconds: float
    protected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A model of the manifest's catalogue, or one that it brings: what graphs may call it.

    Attributes:
        names: its name and its aliases.
        urls: where it may be fetched, best first; the operator's.
        folder: a model folder of the engine's, as `checkpoints`.
        filename: its name there, maybe with subfolders.
        path: where the manifest brings it; None for one that is fetched when it is asked for.
    """

    names: tuple[str, ...]
    urls: tuple[str, ...] = field(repr=False)
    folder: str
    filename: str
    sha256: str | None = None
    size: int | None = None
    path: Path | None = None
