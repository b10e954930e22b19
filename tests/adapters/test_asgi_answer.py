"""An answer over HTTP: JSON, raw bytes, multipart."""

from __future__ import annotations

import dataclasses
import email
import json
from dataclasses import replace

import pytest
from worker import serving

from adapters.asgi_answer import AnswerResponse, Form, accepted_form
from handler.records import Output
from handler.wire import SMALL_BYTES, Answer


@pytest.mark.parametrize(
    ("accept", "types"),
    [
        ("", ()),
        ("*/*", ()),
        ("application/json", ()),
        ("text/html,application/xhtml+xml,*/*;q=0.8", ()),
        ("application/*", ()),
        ("image/*", ("image/*",)),
        ("IMAGE/PNG", ("image/png",)),
        ("image/webp, image/png", ("image/webp", "image/png")),
        ("image/png;q=0.5, image/webp", ("image/webp", "image/png")),
        ("image/png;q=0.5, application/json", ()),
        ("image/png, application/json;q=0.5", ("image/png",)),
        ("image/png, */*;q=0.1", ("image/png",)),
        ("*/*, image/png;q=0.9", ()),
        ("image/png;q=0", ()),
        ("image/png;q=x", ()),
        ("image/png;q=nan", ()),
        ("image/png; version=1; q=0.5", ("image/png",)),
        ("video/mp4", ("video/mp4",)),
        ("audio/*", ("audio/*",)),
        ("model/gltf-binary", ("model/gltf-binary",)),
        ("application/octet-stream", ("application/octet-stream",)),
        ("text/plain", ("text/plain",)),
        ("application/zip", ("application/zip",)),
        ("multipart/mixed", ("multipart/mixed",)),
        ("application/xml, image/png", ("image/png",)),
        ("application/xml", ()),
        (",,;", ()),
    ],
)
def test_the_accept_header_tells_the_form(accept, types):
    """JSON unless raw media is what comes first."""
    assert accepted_form(accept).types == types


@pytest.mark.parametrize(
    ("accept", "json_too"),
    [("image/png", False), ("image/png, */*;q=0.1", True), ("image/png, application/json", True)],
)
async def test_json_is_the_way_out_where_it_is_accepted(tmp_path, accept, json_too):
    """No output fits: the client said what it takes then."""
    named = "application/json" in accept
    assert accepted_form(accept) == Form(("image/png",), json=json_too, named_json=named)
    response = await sent([of_text("said")], accept)
    assert response.status_code == (200 if json_too else 406)


async def test_the_clients_preference_counts_before_the_nodes_order(tmp_path):
    """The first output of the best type."""
    outputs = [
        of_file(tmp_path / "a.png", b"png"),
        of_file(tmp_path / "b.webp", b"w", "image/webp"),
    ]
    response = await sent(outputs, "image/webp, image/*;q=0.5")
    assert (response.content, response.headers["x-output-count"]) == (b"w", "2")


def of_file(path, data, mime="image/png", node="2"):
    path.write_bytes(data)
    kind = mime.partition("/")[0]
    return Output(node, "t", kind, mime, path.name, len(data), "00", path=path)


def of_text(text):
    return Output("5", "t", "text", "text/plain", "5_0.txt", len(text.encode()), "00", text=text)


EMBEDDED = {"kind": "embedded", "version": "0.3.64"}


async def sent(outputs, accept="", closed=None, job_id="j", engine=EMBEDDED, archive=False):
    """Send an answer over a real connection."""

    async def on_close():
        if closed is not None:
            closed.append(True)

    async def app(scope, receive, send):
        tail = {"stats": {}, "engine": engine}
        answer = Answer(job_id, {"id": job_id}, outputs, tail, on_close, archive=archive)
        await AnswerResponse(answer, accepted_form(accept))(scope, receive, send)

    async with serving(app) as client:
        return await client.get("/")


@pytest.mark.parametrize("size", [0, 5, SMALL_BYTES + 1])
async def test_json_has_a_length_and_closes_the_answer(tmp_path, size):
    """The files are gone once it is sent."""
    closed = []
    response = await sent([of_file(tmp_path / "a.png", bytes(size))], closed=closed)

    assert response.json()["filenames"] == ["a.png"]
    assert int(response.headers["content-length"]) == len(response.content)
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert closed == [True]


@pytest.mark.parametrize("size", [0, 5, SMALL_BYTES + 1])
async def test_raw_bytes_come_with_their_type_and_name(tmp_path, size):
    """The first output that fits; how many there are is told."""
    data = b"\x01" * size
    outputs = [
        of_text("said"),
        of_file(tmp_path / "ä b.png", data),
        of_file(tmp_path / "c.png", b""),
    ]
    response = await sent(outputs, "image/*")

    assert response.content == data
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-disposition"] == "inline; filename*=UTF-8''%C3%A4%20b.png"
    assert response.headers["x-output-count"] == "2"
    assert response.headers["x-output-node"] == "2"


async def test_a_text_comes_raw_too():
    """In UTF-8."""
    response = await sent([of_text("zwölf")], "text/plain")
    assert response.text == "zwölf"


@pytest.mark.parametrize("accept", ["image/*", "multipart/mixed"])
@pytest.mark.parametrize(
    ("engine", "told"),
    [
        (EMBEDDED, "embedded 0.3.64"),
        ({"kind": "attached", "version": None}, "attached"),
        ({"kind": "attached", "version": "1\r\nx: y"}, "attached 1%0D%0Ax%3A y"),
    ],
)
async def test_raw_answers_tell_the_job_and_the_engine(tmp_path, accept, engine, told):
    """There is no JSON around them; nothing can break out of a header."""
    picture = of_file(tmp_path / "a.png", b"x")
    response = await sent([picture], accept, job_id="ä/b\r\n", engine=engine)
    assert response.headers["x-comfyfn-engine"] == told
    assert response.headers["x-comfyfn-id"] == "%C3%A4%2Fb%0D%0A"


@pytest.mark.parametrize("accept", ["video/*", "image/webp", "image/webp, video/mp4"])
async def test_no_output_of_the_type_is_406(tmp_path, accept):
    """What there is, is told; the answer is closed as well."""
    closed = []
    response = await sent([of_file(tmp_path / "a.png", b"x")], accept, closed)

    assert response.status_code == 406
    assert response.json()["code"] == "not_acceptable"
    assert "image/png" in response.json()["error"]
    assert closed == [True]


async def test_nothing_at_all_is_told_as_nothing():
    """The run gave no output."""
    response = await sent([], "image/*")
    assert "nothing" in response.json()["error"]


async def test_multipart_has_every_output(tmp_path):
    """Files and texts, each with type, length, name and node."""
    large = b"\x02" * (SMALL_BYTES + 1)
    outputs = [of_file(tmp_path / "ä.png", b"one", node="ü"), of_file(tmp_path / "b.bin", large)]
    response = await sent([*outputs, of_text("said")], "multipart/mixed")
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + response.content)

    parts = message.get_payload()
    assert [part.get_payload(decode=True) for part in parts] == [b"one", large, b"said"]
    assert [part.get_filename() for part in parts] == ["ä.png", "b.bin", "5_0.txt"]
    assert parts[0]["X-Output-Node"] == "%C3%BC"
    assert [part["Content-Length"] for part in parts] == ["3", str(len(large)), "4"]


async def test_multipart_of_nothing_is_an_end_alone():
    """Still a whole message."""
    response = await sent([], "multipart/mixed")
    assert response.status_code == 200
    assert response.content.endswith(b"--\r\n")


async def test_a_json_list_of_everything_is_the_default(tmp_path):
    """Texts are among the outputs, not among the images."""
    response = await sent([of_text("said"), of_file(tmp_path / "a.png", b"x")], "*/*")
    body = json.loads(response.content)
    assert (len(body["images"]), len(body["outputs"])) == (1, 2)


ZIP = "application/zip"
BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"


@pytest.mark.parametrize("accept", ["", "*/*", ZIP, "application/*", BROWSER, "image/png"])
async def test_an_archive_is_sent_as_it_is(tmp_path, accept):
    """With its length, as a file to be saved, unless JSON is asked for."""
    closed = []
    archive = of_file(tmp_path / "ä.zip", b"PK" * SMALL_BYTES, ZIP, "")
    response = await sent([archive], accept, closed, archive=True)

    assert response.content == b"PK" * SMALL_BYTES
    assert response.headers["content-type"] == ZIP
    assert int(response.headers["content-length"]) == archive.bytes
    disposition = response.headers["content-disposition"]
    assert disposition == "attachment; filename*=UTF-8''%C3%A4.zip"
    assert response.headers["x-comfyfn-id"] == "j"
    assert closed == [True]


@pytest.mark.parametrize("accept", ["application/json", "application/json, */*;q=0.1"])
async def test_an_archive_is_base64_where_json_is_asked_for(tmp_path, accept):
    """By its name."""
    response = await sent([of_file(tmp_path / "a.zip", b"PK", ZIP)], accept, archive=True)
    assert response.json()["images"] == ["UEs="]


async def test_an_archive_may_be_a_part_as_well(tmp_path):
    """Who asks for parts gets one."""
    archive = of_file(tmp_path / "a.zip", b"PK", ZIP)
    response = await sent([archive], "multipart/mixed", archive=True)
    assert response.headers["content-type"].startswith("multipart/mixed")


@pytest.mark.parametrize(("accept", "raw"), [("*/*", False), ("", False), (ZIP, True)])
async def test_an_archive_that_is_stored_is_told_by_its_url(tmp_path, accept, raw):
    """The caller wanted it there; who accepts nothing but a ZIP is sent it all the same."""
    stored = replace(of_file(tmp_path / "a.zip", b"PK", ZIP), url="s3://b/a.zip")
    response = await sent([stored], accept, archive=True)
    if raw:
        assert response.content == b"PK"
    else:
        assert response.json()["images"] == ["s3://b/a.zip"]


async def test_an_archive_of_nothing_is_json():
    """The run gave no output: there is no file."""
    response = await sent([], "*/*", archive=True)
    assert response.json()["outputs"] == []


async def test_what_is_stored_elsewhere_still_comes_raw(tmp_path):
    """It is here until the answer is sent; its URL is told beside it."""
    url = "https://h/a b\r\nx?sig=1%2F&y=ü"
    picture = replace(of_file(tmp_path / "a.png", b"png"), url=url)
    response = await sent([picture], "image/png")

    assert response.content == b"png"
    assert response.headers["x-output-url"] == "https://h/a%20b%0D%0Ax?sig=1%2F&y=%C3%BC"


def at_url(path, url="s3://b/ü x.png"):
    """An output of an answer that is given again: the file is at its URL alone."""
    return dataclasses.replace(of_file(path, b"png"), path=None, url=url)


async def test_what_is_elsewhere_alone_is_not_sent_raw(tmp_path):
    """The next that fits is, or the JSON with its URL."""
    stored = at_url(tmp_path / "a.png")
    here = of_file(tmp_path / "b.png", b"here")

    assert (await sent([stored, here], "image/*")).content == b"here"
    assert (await sent([stored], "image/*")).status_code == 406
    told = await sent([stored], "image/*, application/json")
    assert told.json()["images"] == ["s3://b/ü x.png"]


async def test_a_part_of_what_is_elsewhere_is_its_url(tmp_path):
    """An empty one."""
    outputs = [at_url(tmp_path / "a.png"), of_text("said")]
    response = await sent(outputs, "multipart/mixed")
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    stored, text = email.message_from_bytes(head + response.content).get_payload()

    assert (stored.get_payload(decode=True), text.get_payload(decode=True)) == (b"", b"said")
    assert (stored["Content-Length"], stored["X-Output-Url"]) == ("0", "s3://b/%C3%BC%20x.png")
    assert "X-Output-Url" not in text


@pytest.mark.parametrize("accept", ["", "image/*", "multipart/mixed", "video/mp4"])
async def test_the_routes_headers_are_in_every_form(tmp_path, accept):
    """And the job's id, also where the engine is known from the figures alone."""
    picture = of_file(tmp_path / "a.png", b"x")
    answers = [
        Answer("j", {}, [picture], {"stats": {"engine": EMBEDDED}}),
        Answer("j", {}, [picture], {"stats": {}}),
    ]
    told = []
    for answer in answers:

        async def app(scope, receive, send, answer=answer):
            more = {"Idempotent-Replayed": "true", "X-Comfyfn-Id": "other"}
            await AnswerResponse(answer, accepted_form(accept), more)(scope, receive, send)

        async with serving(app) as client:
            told.append((await client.get("/")).headers)

    for headers in told:
        assert headers["idempotent-replayed"] == "true"
        assert headers.get_list("x-comfyfn-id") == ["other"]
    assert told[0]["x-comfyfn-engine"] == "embedded 0.3.64"
    assert "x-comfyfn-engine" not in told[1]
