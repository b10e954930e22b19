"""`Accept` chooses the form of a result: JSON with base64, one file raw, or all as parts."""

from __future__ import annotations

import email
import email.policy
import io
from typing import TYPE_CHECKING, Any

import pytest
from contract.graphs import (
    animation,
    empty,
    files,
    fine,
    picture_of,
    plain,
    recorded,
    refused,
    save,
)
from PIL import Image

if TYPE_CHECKING:
    from email.message import MIMEPart

    import httpx
    from live import LiveServer

TWO: dict[str, Any] = {
    "1": empty(batch=2),
    "2": save("1", "a b"),
    "3": {"class_type": "PreviewAny", "inputs": {"source": "a text: \u00e4\u00f6\u00fc"}},
    "4": save("1", "last"),
}


def raw(server: LiveServer, accept: str, graph: Any = None, **keys: Any) -> httpx.Response:
    """Run a graph and take the answer in the form that a header asks for."""
    body = {"prompt": graph or plain(), **keys}
    return server.post("/prompt", body, headers={"Accept": accept})


@pytest.mark.parametrize("accept", ["image/png", "image/*", "IMAGE/PNG", "image/png, */*;q=0.1"])
def test_a_picture_comes_raw(server: LiveServer, accept: str) -> None:
    """With an image type accepted first, the answer is the file itself."""
    answer = raw(server, accept, id="pic")

    picture = picture_of(answer.content)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "pic_out_00001_.png" in answer.headers["content-disposition"]
    assert answer.headers["x-output-count"] == "1"
    assert answer.headers["x-output-node"] == "2"
    assert (picture.format, picture.size) == ("PNG", (64, 48))


def test_raw_bytes_are_those_of_the_json(server: LiveServer) -> None:
    """The raw file is the one that JSON carries as base64."""
    body = fine(server.prompt(plain(), id="same"))

    answer = raw(server, "image/png", id="same")

    # PNG holds the graph, and that names the folder of the job: only the pixels can be equal.
    one, other = picture_of(answer.content), picture_of(files(body)[0])
    assert one.tobytes() == other.tobytes()


def test_the_first_fitting_file_is_given(server: LiveServer) -> None:
    """Of several outputs the first that fits comes, and how many would have fitted is told."""
    answer = raw(server, "image/*", TWO, id="x")

    assert answer.headers["x-output-count"] == "4"
    assert answer.headers["x-output-node"] == "2"


def test_a_converted_picture_comes_raw(server: LiveServer) -> None:
    """Conversion and raw form go together; the type is the converted one."""
    answer = raw(server, "image/webp", convert_output={"format": "webp"})

    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.content)).format == "WEBP"


def test_a_type_picks_among_outputs(server: LiveServer) -> None:
    """The accepted type chooses which output comes, not their order."""
    graph = {**animation(), "9": save("2", "still")}

    answer = raw(server, "image/png", graph)

    assert answer.headers["x-output-node"] == "9"
    assert picture_of(answer.content).format == "PNG"


def test_the_preferred_type_picks_among_outputs(server: LiveServer) -> None:
    """Of several outputs that fit, the one of the heavier type comes, wherever it stands."""
    graph = {**animation(), "9": save("2", "still")}

    answer = raw(server, "image/*;q=0.5, image/png", graph)

    assert answer.headers["x-output-node"] == "9"
    assert answer.headers["x-output-count"] == "6"


def test_a_text_comes_raw(server: LiveServer) -> None:
    """A text output is given as plain text."""
    answer = raw(server, "text/plain", TWO)

    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.content.decode() == "a text: \u00e4\u00f6\u00fc"


@pytest.mark.comfyui
@pytest.mark.parametrize("server", ["comfyui"], indirect=True)
@pytest.mark.parametrize(
    ("accept", "mime", "head"),
    [
        ("video/*", "video/mp4", b"ftyp"),
        ("video/mp4", "video/mp4", b"ftyp"),
        ("video/webm", "video/webm", b"webm"),
    ],
)
def test_a_film_comes_raw(server: LiveServer, accept: str, mime: str, head: bytes) -> None:
    """With a video type accepted first, the answer is the film."""
    answer = raw(server, accept, recorded("video"))

    assert answer.headers["content-type"] == mime
    assert head in answer.content[:64]


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_film_comes_raw_from_any_engine(server: LiveServer) -> None:
    """A file that is a film by its name fits `video/*`."""
    film = {"name": "film.mp4", "size_bytes": 50, "key": "gifs"}
    graph = {**plain(), "3": {"class_type": "TestFile", "inputs": film}}

    answer = raw(server, "video/*", graph)

    assert answer.headers["content-type"] == "video/mp4"
    assert answer.content == bytes(50)


def parts_of(answer: httpx.Response) -> list[MIMEPart]:
    """Read a multipart answer with the standard library's parser."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.content, policy=email.policy.HTTP)
    assert message.is_multipart()
    assert not message.defects
    return list(message.iter_parts())


def content_of(part: MIMEPart) -> bytes:
    """Give the bytes of a part."""
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


def test_all_outputs_come_as_parts(server: LiveServer) -> None:
    """`multipart/mixed` brings every output in order, with its name, node and length."""
    answer = raw(server, "multipart/mixed", TWO, id="x")
    expected = fine(server.prompt(TWO, id="x"))

    parts = parts_of(answer)

    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content)
    outputs = expected["outputs"]
    assert [part.get_filename() for part in parts] == [o["filename"] for o in outputs]
    assert [part.get_content_type() for part in parts] == [o["mime"] for o in outputs]
    assert [part["x-output-node"] for part in parts] == [o["node_id"] for o in outputs]
    contents = [content_of(part) for part in parts]
    assert [len(content) for content in contents] == [int(part["content-length"]) for part in parts]
    pictures = [c for c, o in zip(contents, outputs, strict=True) if o["kind"] == "image"]
    for content, file in zip(pictures, files(expected), strict=True):
        assert picture_of(content).tobytes() == picture_of(file).tobytes()
    assert contents[2] == outputs[2]["text"].encode()


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize("size", [0, 1, 300_000, 3_000_000])
def test_parts_hold_the_bytes_of_the_json(server: LiveServer, size: int) -> None:
    """Small, empty and large files, sent in blocks, are the same in both forms."""
    inputs = {"name": "data.bin", "size_bytes": size, "key": "files"}
    graph = {**plain(), "3": {"class_type": "TestFile", "inputs": inputs}}

    (_, part), body = parts_of(raw(server, "multipart/mixed", graph)), server.prompt(graph).json()

    assert content_of(part) == files(body)[1] == bytes(size)


def test_multipart_of_one_output_is_still_multipart(server: LiveServer) -> None:
    """One output makes one part."""
    (part,) = parts_of(raw(server, "multipart/mixed"))

    assert part.get_content_type() == "image/png"


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/json",
        "application/*",
        "application/json, image/png",
        "image/png;q=0.5, application/json",
        "image/png;q=0, */*",
        "image/png;q=nonsense, application/json",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8",
        "text/event-stream",
        ";;;,,,q=1",
    ],
)
def test_json_is_the_rule(server: LiveServer, accept: str) -> None:
    """Whoever does not ask for raw media first gets JSON: every client of comfyui-api does."""
    answer = raw(server, accept)

    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert len(fine(answer)["images"]) == 1


@pytest.mark.parametrize(
    ("accept", "mime"),
    [
        ("application/json;q=0.5, image/png", "image/png"),
        ("image/webp, image/png;q=0.9, application/json;q=0.1", "image/png"),
        ("image/png; q=0.7, application/json; q=0.3", "image/png"),
    ],
)
def test_weights_order_the_types(server: LiveServer, accept: str, mime: str) -> None:
    """The heavier type wins, and one that no output has gives way to the next."""
    assert raw(server, accept).headers["content-type"] == mime


@pytest.mark.parametrize("accept", ["video/*", "image/webp", "audio/flac", "model/gltf-binary"])
def test_nothing_fitting_is_told(server: LiveServer, accept: str) -> None:
    """406 with what the run gave, when none of it is of the accepted types."""
    body = refused(raw(server, accept), 406, "not_acceptable")

    assert accept in body["error"]
    assert "image/png" in body["error"]
    assert body["blame"] == "caller"


def test_json_is_given_where_it_is_accepted_less(server: LiveServer) -> None:
    """A client that takes JSON as second best gets it when no output is of its first choice."""
    answer = raw(server, "video/mp4, application/json;q=0.5")

    assert answer.headers["content-type"].startswith("application/json")
    assert len(fine(answer)["images"]) == 1


@pytest.mark.parametrize("accept", ["image/png", "multipart/mixed", "video/*"])
def test_errors_are_json_whatever_is_accepted(server: LiveServer, accept: str) -> None:
    """An error comes in its envelope."""
    answer = raw(server, accept, {"1": {"class_type": "NoSuchNode", "inputs": {}}})

    assert answer.headers["content-type"].startswith("application/json")
    refused(answer, 400, "invalid_workflow")


@pytest.mark.parametrize(
    "node_id", ["a\r\nX-Smuggled: 1", "\u00fc\u4e2d", 'q"uote', " ", "a" * 500]
)
@pytest.mark.parametrize("accept", ["image/png", "multipart/mixed"])
def test_node_ids_break_no_header(server: LiveServer, accept: str, node_id: str) -> None:
    """A node id of any characters reaches the headers harmless."""
    graph = {"1": empty(), node_id: save("1")}

    answer = raw(server, accept, graph, id="x")

    assert answer.status_code == 200
    assert "x-smuggled" not in answer.headers
    if accept == "multipart/mixed":
        (part,) = parts_of(answer)
        assert "x-smuggled" not in part
        assert picture_of(content_of(part)).size == (64, 48)
    else:
        assert picture_of(answer.content).size == (64, 48)
