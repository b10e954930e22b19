"""Inputs that cannot be had: the caller is told which node, which input, and what to do."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from contract.disk import assert_nothing_new, files_below
from contract.file_server import FileServer
from contract.graphs import data_uri, encoded, inverted, photo, plain, refused, save, tone

if TYPE_CHECKING:
    from live import LiveServer

LOGIN_PAGE = b"<!doctype html><html><head><title>Log in</title></head><body>Who?</body></html>"
PNG = encoded(photo())
Form = Callable[[FileServer], str]


def assert_names_the_input(body: dict[str, Any], name: str = "image", node_id: str = "1") -> None:
    """Check that an error tells node and input and blames the caller."""
    assert body["location"] == f"prompt.{node_id}.inputs.{name}"
    assert (body["node_id"], body["class_type"]) == (node_id, "LoadImage")
    assert (body["blame"], body["retryable"]) == ("caller", False)
    assert body["error"] == body["message"]
    assert body["statusCode"] == 400


WRONG_CONTENT: dict[str, Form] = {
    "a login page by URL": lambda source: source.put("/login", LOGIN_PAGE, "text/html"),
    "a login page called PNG": lambda source: source.put("/l.png", LOGIN_PAGE, "image/png"),
    "a login page after a redirect": lambda source: source.redirect(
        "/private.png", source.put("/login", LOGIN_PAGE, "text/html")
    ),
    "a text by URL": lambda source: source.put("/t.png", b"some words\n" * 50, "image/png"),
    "a text by data URI": lambda _: data_uri(b"some words\n" * 50),
    "sound by URL": lambda source: source.put("/t.wav", tone(), "audio/wav"),
    "sound by data URI": lambda _: data_uri(tone(), "audio/wav"),
    "sound by base64": lambda _: base64.b64encode(tone()).decode(),
    "nothing by URL": lambda source: source.put("/empty.png", b"", "image/png"),
    "nothing by data URI": lambda _: "data:image/png;base64,",
    "JSON by URL": lambda source: source.put("/e.png", b'{"error": "no"}', "image/png"),
}


@pytest.mark.parametrize("what", WRONG_CONTENT)
def test_what_is_no_picture_is_refused(server: LiveServer, source: FileServer, what: str) -> None:
    """A page, a text or a sound where a picture is due is told before the engine sees it."""
    value = WRONG_CONTENT[what](source)

    body = refused(server.prompt(inverted(value)), 400, "input_failed")

    assert_names_the_input(body)


def test_a_login_page_hints_at_logins(server: LiveServer, source: FileServer) -> None:
    """The hint says what a page in place of a picture usually is."""
    url = source.put("/login", LOGIN_PAGE, "text/html")

    body = refused(server.prompt(inverted(url)), 400, "input_failed")

    assert "the content is text/" in body["error"]
    assert "login" in body["hint"]


@pytest.mark.parametrize(
    ("name", "content"), [("words.png", b"some words\n" * 9), ("t.wav", tone()), ("no.png", b"")]
)
def test_a_stored_file_of_another_kind_is_refused(
    server: LiveServer, name: str, content: bytes
) -> None:
    """A stored file is held against what the node loads, as a fetched one is."""
    (server.input / name).write_bytes(content)

    body = refused(server.prompt(inverted(name)), 400, "input_failed")

    assert_names_the_input(body)


def test_a_missing_name_is_answered_with_the_nearest(server: LiveServer) -> None:
    """A misspelt name brings the names that are there."""
    (server.input / "portrait_final.png").write_bytes(PNG)

    body = refused(server.prompt(inverted("portrait_finel.png")), 400, "input_failed")

    assert_names_the_input(body)
    assert "portrait_finel.png" in body["error"]
    assert "portrait_final.png" in body["hint"]
    assert "portrait_final.png" in body["details"]["nearest"]


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "../../../../etc/hostname",
        "a/../../secret.png",
        "/etc/hostname",
        "..",
        ".",
        "./../secret.png",
        "../input-not-ours/secret.png",
        "/proc/self/environ",
        "file:///etc/hostname",
        "../secret.png [input]",
        "../secret.png [temp]",
        "../secret.png [output]",
        "../secret.pngX[output]",
        "[output]",
    ],
)
def test_names_that_lead_out_are_refused(server: LiveServer, name: str) -> None:
    """A name that leaves the input folder is refused although the file exists."""
    beside = server.input.parent / "secret.png"
    beside.write_bytes(PNG)
    with contextlib.suppress(FileExistsError):
        (server.input.parent / "input-not-ours").mkdir()
    (server.input.parent / "input-not-ours" / "secret.png").write_bytes(PNG)

    answer = server.prompt(inverted(name))

    assert_names_the_input(refused(answer, 400, "input_failed"))
    assert len(answer.json()["error"]) < 1000


def test_a_link_that_leads_out_is_refused(server: LiveServer) -> None:
    """A symbolic link in the input folder is followed no further than its edge."""
    (server.input.parent / "beyond.png").write_bytes(PNG)
    with contextlib.suppress(FileExistsError):
        (server.input / "link.png").symlink_to(server.input.parent / "beyond.png")

    body = refused(server.prompt(inverted("link.png")), 400, "input_failed")

    assert_names_the_input(body)


@pytest.mark.parametrize("status", [404, 401, 403, 410])
def test_a_source_that_has_no_file(server: LiveServer, source: FileServer, status: int) -> None:
    """The source's status is told, and that another try will not help."""
    url = source.put("/gone.png", b"not here", "text/plain", status)

    code = "access_denied" if status in {401, 403} else "input_failed"
    body = refused(server.prompt(inverted(url)), 400, code)

    assert_names_the_input(body)
    assert body["error"].startswith(f"Failed to download {url}: {status}")
    assert len([path for path, _ in source.asked if path == "/gone.png"]) >= 1


@pytest.mark.parametrize(
    "value",
    [
        "data:image/png;base64,###",
        "data:image/png;base64",
        "http://012.0.0.1/x.png",
        "http://",
        "http:///x.png",
        "https://[::1",
        "ftp://example.com/x.png",
        "s3://bucket",
        "S3://bucket/key.png",
        "gs://b/",
        "file:///etc/hostname",
        "x" * 5000,
        "\x00.png",
        "name\nwith newline.png",
        "a." * 200,
        "\u00e9" * 300,
        "kept.png/under a file.png",
    ],
)
def test_malformed_values_are_refused(server: LiveServer, value: str) -> None:
    """Whatever the text is, the caller gets a 400 that names the input, of readable length."""
    body = refused(server.prompt(inverted(value)), 400, "input_failed")

    assert_names_the_input(body)
    assert len(body["error"]) < 1000


def test_a_refused_job_leaves_nothing(server: LiveServer, source: FileServer) -> None:
    """What was fetched before the fault is removed with the job, and other jobs go on."""
    before = files_below(server.home)
    graph = inverted(data_uri(PNG))
    bad = source.put("/login", LOGIN_PAGE, "text/html")
    graph["4"] = {"class_type": "LoadImage", "inputs": {"image": bad}}
    graph["5"] = save("4")

    body = refused(server.prompt(graph), 400, "input_failed")

    assert_names_the_input(body, node_id="4")
    assert_nothing_new(before, server.home)
    assert server.prompt(plain()).status_code == 200
