"""Graphs, pictures and files that the contract's tests send, and the reading of answers."""

from __future__ import annotations

import base64
import io
import json
import struct
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import httpx

RECORDED = Path(__file__).parent.parent / "recordings" / "graphs"
Graph = dict[str, Any]


def recorded(name: str) -> Graph:
    """Give a graph that a real ComfyUI was recorded with."""
    graph: Graph = json.loads((RECORDED / f"{name}.json").read_text())
    return graph


def empty(width: int = 64, height: int = 48, batch: int = 1, color: int = 0x336699) -> Graph:
    """Give a node that makes plain pictures."""
    inputs = {"width": width, "height": height, "batch_size": batch, "color": color}
    return {"class_type": "EmptyImage", "inputs": inputs}


def save(source: str, prefix: str = "out", **meta: Any) -> Graph:
    """Give a node that saves the pictures of another."""
    node = {
        "class_type": "SaveImage",
        "inputs": {"images": [source, 0], "filename_prefix": prefix},
    }
    return {**node, "_meta": meta} if meta else node


def plain(prefix: str = "out", **size: int) -> Graph:
    """Give a graph that makes a picture and saves it."""
    return {"1": empty(**size), "2": save("1", prefix)}


def noise(width: int = 128, height: int = 96) -> Graph:
    """Give a graph whose picture has detail, so that a codec's options tell."""
    noisy = {"class_type": "ImageAddNoise", "inputs": {"image": ["1", 0], "seed": 7}}
    noisy["inputs"]["strength"] = 0.3  # type: ignore[index]
    return {"1": empty(width, height), "2": noisy, "3": save("2", "noise")}


def inverted(image: Any) -> Graph:
    """Give a graph that loads a picture and saves its negative."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": save("2", "inv"),
    }


def animation(frames: int = 5) -> Graph:
    """Give a graph that saves several pictures as one animated WebP."""
    noisy = {"class_type": "ImageAddNoise", "inputs": {"image": ["1", 0], "seed": 1}}
    noisy["inputs"]["strength"] = 0.5  # type: ignore[index]
    saved = {
        "images": ["2", 0],
        "filename_prefix": "anim",
        "fps": 8.0,
        "lossless": True,
        "quality": 80,
        "method": "default",
    }
    return {
        "1": empty(32, 24, frames),
        "2": noisy,
        "3": {"class_type": "SaveAnimatedWEBP", "inputs": saved},
    }


def photo(width: int = 40, height: int = 30) -> Image.Image:
    """Make a picture without symmetry: a turn, a swap of channels or a shift would show."""
    picture = Image.new("RGB", (width, height))
    pixels = [
        ((x * 255) // width, (y * 255) // height, (x * y * 7) % 256)
        for y in range(height)
        for x in range(width)
    ]
    picture.putdata(pixels)
    return picture


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """Give a picture as a file's bytes."""
    target = io.BytesIO()
    picture.save(target, form, **options)
    return target.getvalue()


def data_uri(content: bytes, mime: str = "image/png") -> str:
    """Give a file as a data URI."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def tone(seconds: float = 0.25, rate: int = 8000) -> bytes:
    """Make a WAV file: a square wave in 16-bit mono."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        count = int(seconds * rate)
        file.writeframes(
            b"".join(struct.pack("<h", 8000 * (-1) ** (i // 20)) for i in range(count))
        )
    return target.getvalue()


def fine(answer: httpx.Response) -> dict[str, Any]:
    """Give the body of an answer that must be a success."""
    assert answer.status_code == 200, answer.text[:2000]
    body: dict[str, Any] = answer.json()
    return body


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Give the envelope of an answer that must be an error of that status and code."""
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body.get("code")) == (status, code), answer.text[:2000]
    return body


def files(body: dict[str, Any]) -> list[bytes]:
    """Give the decoded files of an answer."""
    return [base64.b64decode(text, validate=True) for text in body["images"]]


def pictures(body: dict[str, Any]) -> list[Image.Image]:
    """Give the decoded pictures of an answer; a file that is broken fails here."""
    return [picture_of(content) for content in files(body)]


def picture_of(content: bytes) -> Image.Image:
    """Open the bytes of a picture."""
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


def negative(picture: Image.Image) -> Image.Image:
    """Give what ImageInvert must make of a picture.

    That is Pillow's negative but for the last bit: ComfyUI computes with 32-bit floats from 0 to 1
    and cuts off what is left behind the point.
    """
    levels = np.asarray(picture.convert("RGB"), np.float32) / np.float32(255)
    cut = np.clip(np.float32(255) * (1 - levels), 0, 255).astype(np.uint8)
    exact = np.asarray(ImageOps.invert(picture.convert("RGB")), np.int16)
    assert np.abs(cut - exact).max() <= 1
    return Image.fromarray(cut)


def assert_same_pixels(found: Image.Image, expected: Image.Image) -> None:
    """Compare two pictures pixel by pixel."""
    assert found.size == expected.size
    assert found.convert("RGB").tobytes() == expected.convert("RGB").tobytes()
