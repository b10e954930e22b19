"""Uploads and views beyond what test_replay.py asks."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import aiohttp
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo


@pytest.fixture
def picture(client: Any) -> bytes:
    """A picture with transparency and metadata, in the output folder."""
    image = Image.new("RGBA", (6, 4), (200, 100, 50, 128))
    metadata = PngInfo()
    metadata.add_text("prompt", "{}")
    path = client.engine.folders.output / "sub" / "a.png"
    path.parent.mkdir()
    image.save(path, pnginfo=metadata)
    return path.read_bytes()


async def fetch(client: Any, **query: str) -> tuple[int, str | None, bytes]:
    async with client.session.get("/view", params=query) as answer:
        return answer.status, answer.headers.get("Content-Type"), await answer.read()


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({}, 404),
        ({"filename": ""}, 400),
        ({"filename": "/a.png"}, 400),
        ({"filename": "../a.png"}, 400),
        ({"filename": "a.png", "subfolder": "sub"}, 200),
        ({"filename": "a.png [output]", "subfolder": "sub", "type": "input"}, 200),
        ({"filename": "sub/a.png"}, 404),
        ({"filename": "a.png", "subfolder": "sub", "type": "input"}, 404),
        ({"filename": "a.png", "type": "weird"}, 400),
        ({"filename": "a.png", "subfolder": "../.."}, 403),
        ({"filename": "a.png", "subfolder": "/etc"}, 403),
        ({"filename": "sub"}, 404),
    ],
)
async def test_only_files_of_the_three_folders_are_given(
    client: Any, picture: bytes, query: dict[str, str], status: int
) -> None:
    """What leads outside is refused, what is not there is not found."""
    assert (await fetch(client, **query))[0] == status


async def test_single_channels_can_be_asked_for(client: Any, picture: bytes) -> None:
    """Colour without alpha, or alpha alone, without metadata."""
    query = {"filename": "a.png", "subfolder": "sub"}
    _, _, rgb = await fetch(client, **query, channel="rgb")
    _, _, alpha = await fetch(client, **query, channel="a")
    with Image.open(BytesIO(rgb)) as shown:
        assert (shown.mode, shown.getpixel((0, 0)), shown.info) == ("RGB", (200, 100, 50), {})
    with Image.open(BytesIO(alpha)) as shown:
        assert (shown.mode, shown.getpixel((0, 0))) == ("RGBA", (0, 0, 0, 128))


async def test_a_picture_without_alpha_is_opaque(client: Any) -> None:
    """Its alpha channel is full."""
    Image.new("RGB", (2, 2)).save(client.engine.folders.output / "b.png")
    _, _, alpha = await fetch(client, filename="b.png", channel="a")

    with Image.open(BytesIO(alpha)) as shown:
        assert shown.getpixel((0, 0)) == (0, 0, 0, 255)


@pytest.mark.parametrize(
    ("preview", "channel", "form", "mode"),
    [
        ("webp;75", "rgba", "WEBP", "RGBA"),
        ("webp", "", "WEBP", "RGBA"),
        ("jpeg;50", "rgb", "JPEG", "RGB"),
        ("jpeg", "rgba", "WEBP", "RGBA"),
        ("bmp;x", "rgb", "WEBP", "RGB"),
    ],
)
async def test_previews_are_encoded_anew(
    client: Any, picture: bytes, preview: str, channel: str, form: str, mode: str
) -> None:
    """Only WebP and JPEG are made, and JPEG only without alpha."""
    query = {"filename": "a.png", "subfolder": "sub", "preview": preview, "channel": channel}
    _, kind, body = await fetch(client, **query)

    assert kind == f"image/{form.lower()}"
    with Image.open(BytesIO(body)) as shown:
        assert (shown.format, shown.mode) == (form, mode)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "application/octet-stream"),
        ("a.js", "application/octet-stream"),
        ("a.mp4", "video/mp4"),
        ("a.latent", "application/octet-stream"),
        ("a.webp", "image/webp"),
    ],
)
async def test_files_have_the_type_of_their_name(client: Any, name: str, kind: str) -> None:
    """What a browser would run is given as a download."""
    (client.engine.folders.output / name).write_bytes(b"0123456789")
    status, given, body = await fetch(client, filename=name)

    assert (status, given, body) == (200, kind, b"0123456789")


async def test_a_part_of_a_file_can_be_asked_for(client: Any) -> None:
    """Range gives 206 and those bytes; one that is past the end 416."""
    (client.engine.folders.output / "a.bin").write_bytes(b"0123456789")
    parts = []
    for wanted in ("bytes=2-4", "bytes=7-", "bytes=-2", "bytes=50-"):
        headers = {"Range": wanted}
        async with client.session.get("/view?filename=a.bin", headers=headers) as answer:
            parts.append((answer.status, await answer.read() if answer.status == 206 else b""))

    assert parts == [(206, b"234"), (206, b"789"), (206, b"89"), (416, b"")]


async def upload(client: Any, route: str, form: aiohttp.FormData) -> tuple[int, Any]:
    async with client.session.post(f"/upload/{route}", data=form) as answer:
        return answer.status, await answer.json() if answer.status == 200 else None


async def test_a_mask_becomes_the_alpha_of_the_original(client: Any, picture: bytes) -> None:
    """The new file has the old colours and metadata, and the mask's transparency."""
    mask = BytesIO()
    Image.new("RGBA", (6, 4), (0, 0, 0, 7)).save(mask, "PNG")
    form = aiohttp.FormData()
    form.add_field("image", mask.getvalue(), filename="m.png")
    form.add_field("original_ref", '{"filename": "a.png", "subfolder": "sub", "type": "output"}')
    status, told = await upload(client, "mask", form)

    assert (status, told) == (200, {"name": "m.png", "subfolder": "", "type": "input"})
    with Image.open(client.engine.folders.input / "m.png") as made:
        assert made.getpixel((0, 0)) == (200, 100, 50, 7)
        assert made.text == {"prompt": "{}"}


@pytest.mark.parametrize(
    "reference",
    [
        '{"filename": ""}',
        '{"filename": "/a.png"}',
        '{"filename": "a.png", "type": "weird"}',
        '{"filename": "a.png", "subfolder": "../.."}',
        '{"filename": "gone.png [temp]"}',
    ],
)
async def test_a_mask_of_no_original_writes_nothing(client: Any, reference: str) -> None:
    """The answer is 200 all the same."""
    form = aiohttp.FormData()
    form.add_field("image", b"x", filename="m.png")
    form.add_field("original_ref", reference)

    assert (await upload(client, "mask", form))[0] == 200
    assert not (client.engine.folders.input / "m.png").exists()


async def test_a_field_that_is_no_file_is_an_error(client: Any) -> None:
    """A text in the place of the file is answered with 500."""
    form = aiohttp.FormData()
    form.add_field("image", "text")

    assert (await upload(client, "image", form))[0] == 500
