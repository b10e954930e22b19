"""What passes between the stages of a job. Frozen, so that no stage edits another's work."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

Graph = dict[str, dict[str, Any]]
"""An API-format graph: node id -> {"class_type", "inputs", "_meta"?}."""

CONVERTER_THREAD = "convert"
"""Begins the names of the threads that encode."""

JOBS_FOLDER = "comfyfn-jobs"
"""Holds all jobs' folders, in the engine's input and output: nodes that list the folders of a
folder show this one name, and none of a job's, which only the job may know."""

TARGET_KINDS = (
    "s3",
    "hf_upload",
    "azure_blob_upload",
    "http_upload",
    "gcs_upload",
    "presigned",
    "volume",
)
"""The keys of a payload's upload objects, comfyui-api's first and in its order. Their schemas, in
`handler.targets`, take a tenth of a second to build, and load with the first payload that has one.
"""

Kind = Literal["image", "video", "audio", "model3d", "text", "file"]


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a media file is, by its content.

    Attributes:
        mime: media type, `image/png`; `application/octet-stream` where nothing is known.
        width, height: pixels, of images and videos.
        frames: pictures in an image file, more than 1 for an animation.
        duration_s: seconds, of videos, audio and animated images.
    """

    mime: str
    kind: Kind
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One thing the run produced: a file, or a text.

    Attributes:
        node_id, title: the node that told it; title from the graph's `_meta.title`.
        filename: leaf name as told to the caller.
        path: where the bytes lie until the job is closed; None for a text.
        bytes: size; of a text, of its UTF-8 form.
        sha256: lower-case hex.
        text: the text of a node that shows text, else None.
        temp: a preview, from the engine's temp folder.
        url: where an upload brought it, of the first target; None where its bytes are the answer.
        uploads: where it went, target by target: `{"target", "url", "location", "bytes", ...}`;
            with `expires_at` where `url` is a link that lets anybody in until then.
    """

    node_id: str
    title: str
    kind: Kind
    mime: str
    filename: str
    bytes: int
    sha256: str
    path: Path | None = None
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    text: str | None = None
    temp: bool = False
    url: str | None = field(default=None, repr=False)
    uploads: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    def public(self) -> dict[str, Any]:
        """Give the entry of `outputs` in an answer."""
        told = {
            "node_id": self.node_id,
            "title": self.title,
            "kind": self.kind,
            "mime": self.mime,
            "filename": self.filename,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "width": self.width,
            "height": self.height,
            "duration_s": self.duration_s,
            "text": self.text,
        }
        return {**told, "url": self.url, "uploads": list(self.uploads)} if self.uploads else told

    def lasting(self) -> Output:
        """Give it as it is remembered: with places where it has links, which are secret and die."""
        if not any("expires_at" in entry for entry in self.uploads):
            return self
        uploads = tuple(map(_lasting, self.uploads))
        return replace(self, url=uploads[0]["url"], uploads=uploads)


def _lasting(entry: dict[str, Any]) -> dict[str, Any]:
    if "expires_at" not in entry:
        return entry
    kept = {name: value for name, value in entry.items() if name != "expires_at"}
    return {**kept, "url": entry["location"]}
