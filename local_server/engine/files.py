"""The engine's routes that take and give files."""

from __future__ import annotations

import json
import mimetypes
import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.web_request import FileField
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from local_server.engine.keys import ENGINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from multidict import MultiDictProxy

    from local_server.engine.folders import Folders

    Form = MultiDictProxy[str | bytes | bytearray | FileField]
    Save = Callable[[FileField, Path], None]

COMPRESS_LEVEL = 4
DEFAULT_QUALITY = 90
# A browser would show or run these; they are given as downloads.
UNSAFE_TYPES = frozenset(
    {"text/html", "text/html-sandboxed", "application/xhtml+xml", "text/javascript", "text/css"}
)
OCTETS = "application/octet-stream"


async def upload_image(request: web.Request) -> web.Response:
    """Store a file, under another name if the one it has is taken by another content."""

    def save(field: FileField, path: Path) -> None:
        path.write_bytes(field.file.read())

    return _upload(request.app[ENGINE].folders, await request.post(), save)


async def upload_mask(request: web.Request) -> web.Response:
    """Store a picture that is stored already, with the alpha channel of the one sent."""
    form = await request.post()
    folders = request.app[ENGINE].folders

    def save(field: FileField, path: Path) -> None:
        original = _original(folders, json.loads(str(form["original_ref"])))
        if original is not None and original.is_file():
            _save_masked(original, field, path)

    return _upload(folders, form, save)


def _upload(folders: Folders, form: Form, save: Save) -> web.Response:
    """Find a name for an uploaded file and have it saved.

    Raises:
        KeyError: there is no folder of the type named.
        TypeError: the field is no file.
        OSError: the name has a folder that does not exist.
    """
    field = form.get("image")
    kind = str(form.get("type", "input"))
    root = {"input": folders.input, "temp": folders.temp, "output": folders.output}[kind]
    if not field:
        return web.Response(status=400)
    if not isinstance(field, FileField):
        raise TypeError("the field `image` is no file")
    subfolder = str(form.get("subfolder", ""))
    folder = root / os.path.normpath(subfolder)
    path = Path(os.path.normpath(folder / field.filename))
    if not path.is_relative_to(root):
        return web.Response(status=400)
    folder.mkdir(parents=True, exist_ok=True)
    name, stored = field.filename, False
    if form.get("overwrite") not in ("true", "1"):
        name, path, stored = _free_name(folder, field, path)
    if not stored:
        save(field, path)
    return web.json_response({"name": name, "subfolder": subfolder, "type": kind})


def _free_name(folder: Path, field: FileField, path: Path) -> tuple[str, Path, bool]:
    """Find a name that is free or has the same content already; the last item tells which."""
    content = field.file.read()
    field.file.seek(0)
    bare = Path(field.filename)
    name = field.filename
    count = 0
    while path.exists():
        if path.read_bytes() == content:
            return name, path, True
        count += 1
        name = f"{bare.with_suffix('')} ({count}){bare.suffix}"
        path = folder / name
    return name, path, False


def _original(folders: Folders, reference: dict[str, Any]) -> Path | None:
    """Find the file that a mask belongs to; None for a reference that leads outside."""
    name, folder = folders.split_annotation(reference["filename"])
    if not name or name.startswith("/") or ".." in name:
        return None
    root = folder or folders.of_type(reference.get("type", "output"))
    if root is None:
        return None
    below = Path(os.path.normpath(root / reference.get("subfolder", "")))
    return below / name if below.is_relative_to(root) else None


def _save_masked(original: Path, field: FileField, path: Path) -> None:
    with Image.open(original) as source, Image.open(field.file) as mask:
        metadata = PngInfo()
        for key, text in getattr(source, "text", {}).items():
            metadata.add_text(key, text)
        picture = source.convert("RGBA")
        picture.putalpha(mask.convert("RGBA").getchannel("A"))
        picture.save(path, format="PNG", compress_level=COMPRESS_LEVEL, pnginfo=metadata)


async def view(request: web.Request) -> web.StreamResponse:
    """Give a file, or a picture's preview or single channels; HEAD and Range work, too."""
    query = request.query
    if "filename" not in query:
        return web.Response(status=404)
    path = _viewed(request.app[ENGINE].folders, query["filename"], dict(query))
    if isinstance(path, int):
        return web.Response(status=path)
    if not path.is_file():
        return web.Response(status=404)
    channel = query.get("channel", "rgba")
    disposition = {"Content-Disposition": f'filename="{path.name}"'}
    if "preview" in query:
        body, kind = _preview(path, query["preview"], query.get("channel", ""))
    elif channel in ("rgb", "a"):
        body, kind = _channel(path, channel), "image/png"
    else:
        kind = mimetypes.guess_type(path.name)[0] or OCTETS
        kind = OCTETS if kind in UNSAFE_TYPES else kind
        return web.FileResponse(path, headers=disposition | {"Content-Type": kind})
    return web.Response(body=body, content_type=kind, headers=disposition)


def _viewed(folders: Folders, filename: str, query: dict[str, str]) -> Path | int:
    """Find the file that a query names, or the status that refuses it."""
    name, folder = folders.split_annotation(filename)
    if not name or name.startswith("/") or ".." in name:
        return 400
    root = folder or folders.of_type(query.get("type", "output"))
    if root is None:
        return 400
    below = Path(os.path.normpath(root / query.get("subfolder", "")))
    # A folder inside the name is cut off: it belongs into `subfolder`.
    return below / Path(name).name if below.is_relative_to(root) else 403


def _preview(path: Path, wish: str, channel: str) -> tuple[bytes, str]:
    """Encode a picture as `webp;75` or `jpeg;90` asks for."""
    form, *more = wish.split(";")
    if form not in ("webp", "jpeg") or "a" in channel:
        form = "webp"
    quality = int(more[-1]) if more and more[-1].isdigit() else DEFAULT_QUALITY
    buffer = BytesIO()
    with Image.open(path) as picture:
        flat = form == "jpeg" or channel == "rgb"
        shown = picture.convert("RGB") if flat else picture
        shown.save(buffer, format=form, quality=quality)
    return buffer.getvalue(), f"image/{form}"


def _channel(path: Path, channel: str) -> bytes:
    """Encode a picture without its alpha channel, or a blank one with it; metadata are lost."""
    buffer = BytesIO()
    with Image.open(path) as picture:
        if channel == "rgb":
            shown = picture.convert("RGB")
        else:
            has_alpha = picture.mode == "RGBA"
            alpha = picture.getchannel("A") if has_alpha else Image.new("L", picture.size, 255)
            shown = Image.new("RGBA", picture.size)
            shown.putalpha(alpha)
        shown.save(buffer, format="PNG")
    return buffer.getvalue()


ROUTES = (
    web.post("/upload/image", upload_image),
    web.post("/upload/mask", upload_mask),
    web.get("/view", view),
)
