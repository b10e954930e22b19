"""Reading a JSON body with bounded memory."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response
from worker import serving

from adapters.asgi_body import IN_MEMORY_BYTES, JsonBodies, decode
from handler.errors import HandlerError, InvalidPayload, JobCancelled, PayloadTooLarge

JSON = {"content-type": "application/json"}


def reader(limit=1 << 30):
    """An application that answers what it read, or the error."""
    bodies = JsonBodies()

    async def app(scope, receive, send):
        try:
            value = await bodies.read(Request(scope, receive), limit)
            response = Response(orjson.dumps({"read": value}))
        except HandlerError as error:
            response = Response(orjson.dumps(error.envelope()), status_code=error.status)
        await response(scope, receive, send)

    return app


@pytest.mark.parametrize(
    "kind",
    ["application/json", "application/json; charset=utf-8", "text/json", "application/x+json"],
)
async def test_json_types_are_read(kind):
    """With parameters, and vendors' own."""
    async with serving(reader()) as client:
        response = await client.post("/", content=b'{"a": 1}', headers={"content-type": kind})
    assert response.json() == {"read": {"a": 1}}


async def test_no_type_is_taken_for_json():
    """Many scripts send none."""
    async with serving(reader()) as client:
        request = client.build_request("POST", "/", content=b"[1]")
        request.headers.pop("content-type", None)
        assert (await client.send(request)).json() == {"read": [1]}


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "image/png"])
async def test_other_types_are_refused(kind):
    """415, and what to set."""
    async with serving(reader()) as client:
        response = await client.post("/", content=b"{}", headers={"content-type": kind})
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("size", [10, IN_MEMORY_BYTES + 1, 3 * IN_MEMORY_BYTES])
async def test_bodies_of_any_size_are_the_same_to_the_caller(size):
    """Large ones go through a file."""
    text = "x" * size
    async with serving(reader()) as client:
        response = await client.post("/", json={"text": text})
    assert response.json() == {"read": {"text": text}}


async def test_many_large_bodies_are_decoded_one_by_one():
    """The others wait on disk."""
    text = "x" * (2 * IN_MEMORY_BYTES)
    async with serving(reader()) as client:
        answers = await asyncio.gather(*(client.post("/", json=[text, n]) for n in range(4)))
    assert [answer.json()["read"][1] for answer in answers] == [0, 1, 2, 3]


def test_every_event_loop_may_read_large_bodies():
    """One application after the other in one process, each with bodies that wait for their turn."""

    async def contended():
        text = "x" * (2 * IN_MEMORY_BYTES)
        async with serving(reader()) as client:
            answers = await asyncio.gather(*(client.post("/", json=[text, n]) for n in range(3)))
        return [answer.status_code for answer in answers]

    assert [asyncio.run(contended()) for _ in range(2)] == [[200] * 3] * 2


async def test_large_bodies_lie_in_the_scratch_folder_without_a_name(tmp_path):
    """WORK_DIR holds them, and nothing has to be removed however we end."""
    parts = [b'["', b"x" * (IN_MEMORY_BYTES + 1), b'"]']
    seen = []

    async def receive():
        handles = Path("/proc/self/fd")
        links = [os.readlink(link) for link in handles.iterdir() if link.is_symlink()]
        seen.append([link for link in links if link.startswith(str(tmp_path))])
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    await JsonBodies(tmp_path).read(Request({"type": "http", "headers": []}, receive), 1 << 30)
    assert [len(links) for links in seen] == [0, 0, 1]
    assert list(tmp_path.iterdir()) == []


async def test_an_announced_length_of_thousands_of_digits_is_too_large():
    """More than Python reads as a number."""

    async def receive():
        return {"type": "http.request", "body": b"{}"}

    headers = [(b"content-length", b"9" * 5000)]
    with pytest.raises(PayloadTooLarge):
        await JsonBodies().read(Request({"type": "http", "headers": headers}, receive), 1 << 30)


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_refused(announced):
    """By its announced length, else while it arrives."""

    async def blocks():
        for _ in range(5):
            yield b"x" * (1 << 19)

    content = b"x" * (5 << 19) if announced else blocks()
    async with serving(reader(2 << 20)) as client:
        response = await client.post("/", content=content, headers=JSON)
    assert response.status_code == 413
    assert "2 MiB" in response.json()["error"]


async def test_a_body_of_exactly_the_limit_is_read():
    """The limit is the largest that is taken."""
    content = b'"' + b"x" * ((1 << 20) - 2) + b'"'
    async with serving(reader(1 << 20)) as client:
        assert (await client.post("/", content=content, headers=JSON)).status_code == 200
        content += b" "
        assert (await client.post("/", content=content, headers=JSON)).status_code == 413


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the body is empty"),
        (b"{", "line 1 column 2"),
        (b'{\n "a": nope}', "line 2 column 7"),
        (b"\xff\xfe", "no JSON"),
        (b"{" + b" " * (IN_MEMORY_BYTES + 5), "no JSON"),
        (b"[" * 5000, "no JSON"),
    ],
)
async def test_what_is_no_json_is_told_with_its_place(content, said):
    """400."""
    async with serving(reader()) as client:
        response = await client.post("/", content=content, headers=JSON)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_payload")
    assert said in response.json()["error"]


async def test_a_client_that_goes_away_while_it_sends_is_told_as_such():
    """Nobody reads the answer; no traceback is due."""
    messages = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive():
        return messages.pop(0)

    with pytest.raises(JobCancelled, match="went away"):
        await JsonBodies().read(Request({"type": "http", "headers": []}, receive), 1 << 20)


def test_decoding_takes_bytes_and_views():
    """A file is decoded where it lies."""
    assert decode(memoryview(b"[1]")) == decode(b"[1]") == [1]
    with pytest.raises(InvalidPayload):
        decode(memoryview(b"["))


LONG = "QUJD" * 20_000


@pytest.mark.parametrize(
    "value",
    [
        LONG,
        [LONG, LONG, "short", [[LONG]], {"a": {"b": LONG}}],
        {LONG: 1, "b": LONG},
        {"data": f"data:image/png;base64,{LONG}==", "n": [1, None, True, 2.5]},
        ["\\" + LONG, LONG + "\\", '"' + LONG, LONG + '"', "ü" + LONG, '","' + LONG],
        [{}, [], "", LONG],
        {"x": "not base64 " * 200_000},
    ],
)
@pytest.mark.parametrize("style", [{}, {"separators": (",", ":")}, {"indent": 1}])
async def test_long_texts_come_whole_wherever_they_are(value, style):
    """They go around the decoder's copy; nobody can tell."""
    pad = {"pad": "x y" * IN_MEMORY_BYTES, "value": value}

    messages = [{"type": "http.request", "body": json.dumps(pad, **style).encode()}]

    async def receive():
        return messages.pop()

    assert (
        await JsonBodies().read(Request({"type": "http", "headers": []}, receive), 1 << 30) == pad
    )


async def test_a_fault_beside_a_long_text_is_told_with_its_place():
    """The place is that in the body as it was sent."""
    body = f'["{LONG * 20}",\n nope]'.encode()
    messages = [{"type": "http.request", "body": body}]

    async def receive():
        return messages.pop()

    with pytest.raises(InvalidPayload, match="line 2 column"):
        await JsonBodies().read(Request({"type": "http", "headers": []}, receive), 1 << 30)
