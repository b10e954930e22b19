"""One picture, sent in every form an input may have: always the same pixels come out."""

from __future__ import annotations

import base64
import wave
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from contract.disk import assert_nothing_new, files_below
from contract.file_server import FileServer
from contract.graphs import (
    assert_same_pixels,
    data_uri,
    encoded,
    files,
    fine,
    inverted,
    negative,
    photo,
    picture_of,
    pictures,
    recorded,
    save,
    tone,
)
from PIL import Image

if TYPE_CHECKING:
    from live import LiveServer

PNG = encoded(photo())
SMALL_JPEG = encoded(photo(16, 12), "JPEG", quality=60)
# A form gives the value of the input, from the source of files and the engine's input folder.
Form = Callable[[FileServer, Path], str]


def by_url(source: FileServer, _: Path) -> str:
    """Name the picture by URL."""
    return source.put("/photo.png", PNG, "image/png")


def by_url_without_type(source: FileServer, _: Path) -> str:
    """Name it by a URL that tells neither its type nor an extension."""
    return source.put("/download", PNG, "application/octet-stream") + "?id=1&token=x"


def by_redirect(source: FileServer, _: Path) -> str:
    """Name it by a URL that leads elsewhere."""
    return source.redirect("/moved", source.put("/photo.png", PNG, "image/png"))


def by_url_in_capitals(source: FileServer, _: Path) -> str:
    """Name it by a URL whose scheme is in capitals."""
    return source.put("/photo.png", PNG, "image/png").replace("http", "HTTP")


def by_data_uri(_: FileServer, __: Path) -> str:
    """Send it as a data URI."""
    return data_uri(PNG)


def by_percent_uri(_: FileServer, __: Path) -> str:
    """Send it as a data URI that is percent-encoded, not base64."""
    return f"data:image/png,{quote(PNG)}"


def by_base64(_: FileServer, __: Path) -> str:
    """Send it as base64."""
    return base64.b64encode(PNG).decode()


def by_base64_unpadded(_: FileServer, __: Path) -> str:
    """Send it as URL-safe base64 in lines, without padding."""
    text = base64.urlsafe_b64encode(PNG).decode().rstrip("=")
    return "\n".join(text[at : at + 76] for at in range(0, len(text), 76))


def by_stored_name(_: FileServer, inputs: Path) -> str:
    """Name a file of the input folder."""
    (inputs / "kept.png").write_bytes(PNG)
    return "kept.png"


def by_stored_path(_: FileServer, inputs: Path) -> str:
    """Name a file in a subfolder of the input folder."""
    (inputs / "some where").mkdir(exist_ok=True)
    (inputs / "some where" / "kept.png").write_bytes(PNG)
    return "some where/kept.png"


FORMS = [value for name, value in list(globals().items()) if name.startswith("by_")]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_gives_the_same_pixels(
    server: LiveServer, source: FileServer, form: Form
) -> None:
    """The inverted picture is Pillow's, pixel by pixel, however the picture was sent."""
    body = fine(server.prompt(inverted(form(source, server.input))))

    assert_same_pixels(pictures(body)[0], negative(photo()))


def test_a_small_jpeg_as_base64_is_no_path(server: LiveServer) -> None:
    """A JPEG's base64 begins with a slash; short as a path may be, it is still taken as data."""
    text = base64.b64encode(SMALL_JPEG).decode()

    body = fine(server.prompt(inverted(text)))

    assert text.startswith("/9j/")
    assert len(text) < 4096
    assert_same_pixels(pictures(body)[0], negative(picture_of(SMALL_JPEG)))


def test_a_large_picture_by_every_way(server: LiveServer, source: FileServer) -> None:
    """A body of several megabytes, which goes over the disk, gives the same as a URL."""
    large = photo(64, 64).resize((1200, 900), Image.Resampling.NEAREST)
    content = encoded(large, "BMP")
    url = source.put("/large.bmp", content, "image/bmp")

    for value in (data_uri(content, "image/bmp"), url):
        body = fine(server.prompt(inverted(value)))
        assert_same_pixels(pictures(body)[0], negative(large))


def test_a_stored_name_is_seen_the_moment_it_is_there(server: LiveServer) -> None:
    """A file that was put there after the start is loaded; changed bytes give another result."""
    for picture in (photo(20, 10), photo(10, 20)):
        (server.input / "changing.png").write_bytes(encoded(picture))
        body = fine(server.prompt(inverted("changing.png")))
        assert_same_pixels(pictures(body)[0], negative(picture))


def test_a_stored_file_stays(server: LiveServer) -> None:
    """What the operator stored is not removed with the job, what the job brought is."""
    (server.input / "stays.png").write_bytes(PNG)
    before = files_below(server.home)

    fine(server.prompt(inverted("stays.png")))
    fine(server.prompt(inverted(data_uri(PNG))))

    assert_nothing_new(before, server.home)


def test_the_same_url_is_fetched_anew(server: LiveServer, source: FileServer) -> None:
    """Nothing is remembered from the last job: the source may have changed."""
    for picture in (photo(20, 10), photo(10, 20)):
        url = source.put("/today.png", encoded(picture), "image/png")
        body = fine(server.prompt(inverted(url)))
        assert_same_pixels(pictures(body)[0], negative(picture))


def test_credentials_in_the_url_reach_the_source_alone(
    server: LiveServer, source: FileServer
) -> None:
    """User and password go to the source as Basic, and neither into the answer nor the log."""
    source.put("/locked.png", PNG, "image/png")
    url = source.url("/locked.png", "someone:hidden-word@") + "?signature=hidden-mark"

    answer = server.prompt(inverted(url))

    path, headers = source.asked[-1]
    assert_same_pixels(pictures(fine(answer))[0], negative(photo()))
    assert base64.b64decode(headers["Authorization"].split()[1]) == b"someone:hidden-word"
    assert path == "/locked.png?signature=hidden-mark"
    for place in (answer.text, server.log.read_text()):
        assert "hidden-word" not in place
        assert "hidden-mark" not in place


def test_an_input_of_a_second_node_of_the_same_graph(
    server: LiveServer, source: FileServer
) -> None:
    """Several inputs in one graph each get their own picture."""
    graph: dict[str, Any] = {}
    sent = [photo(20 + 2 * i, 10) for i in range(4)]
    for i, picture in enumerate(sent):
        url = source.put(f"/several{i}.png", encoded(picture), "image/png")
        graph[f"load{i}"] = {"class_type": "LoadImage", "inputs": {"image": url}}
        graph[f"save{i}"] = save(f"load{i}", f"p{i}")

    body = fine(server.prompt(graph))

    for found, expected in zip(pictures(body), sent, strict=True):
        assert_same_pixels(found, expected)


@pytest.mark.comfyui
@pytest.mark.parametrize("server", ["comfyui"], indirect=True)
def test_sound_by_data_uri_and_url(server: LiveServer, source: FileServer) -> None:
    """A WAV sent by data URI or URL is loaded as sound and saved as FLAC of the same length."""
    sound = tone(0.5)
    with wave.open(BytesIO(sound)) as file:
        rate, count = file.getframerate(), file.getnframes()
    for value in (data_uri(sound, "audio/wav"), source.put("/t.wav", sound, "audio/wav")):
        load = {"class_type": "LoadAudio", "inputs": {"audio": value}}
        saved = {"audio": ["1", 0], "filename_prefix": "sound"}

        body = fine(server.prompt({"1": load, "2": {"class_type": "SaveAudio", "inputs": saved}}))

        (flac,) = files(body)
        # The FLAC stream information: 20 bits of sample rate, then at its end 36 bits of samples.
        packed = int.from_bytes(flac[18:26], "big")
        assert flac[:4] == b"fLaC"
        assert (packed >> 44, packed & ((1 << 36) - 1)) == (rate, count)
        (output,) = body["outputs"]
        assert (output["kind"], output["mime"]) == ("audio", "audio/flac")
        assert output["duration_s"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.comfyui
@pytest.mark.parametrize("server", ["comfyui"], indirect=True)
def test_a_film_by_data_uri(server: LiveServer) -> None:
    """A film that one graph made is loaded by the next and keeps its frames."""
    made = fine(server.prompt(recorded("video")))
    film = files(made)[0]
    graph = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": data_uri(film, "video/mp4")}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": save("2", "frame"),
    }

    body = fine(server.prompt(graph))

    assert [picture.size for picture in pictures(body)] == [(64, 64)] * 8
