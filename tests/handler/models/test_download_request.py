"""What a caller may ask to have fetched, and how its URL is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.engine.model_folders import ModelFolders
from handler.errors import InvalidPayload
from handler.models.download_request import (
    DownloadRequest,
    echoed,
    folder_called,
    last_segment,
    parse_download,
)

URL = "https://example.org/m.safetensors"
FOLDERS = ModelFolders(
    {
        "checkpoints": (Path("/m/checkpoints"),),
        "text_encoders": (Path("/m/text_encoders"), Path("/m/clip")),
        "diffusion_models": (Path("/m/unet"), Path("/m/diffusion_models")),
        "loras": (Path("/m/loras"), Path("/v/shared")),
        "vae": (Path("/m/vae"), Path("/v/shared")),
        "custom_nodes": (Path("/custom_nodes"),),
    }
)


def refused(raw):
    with pytest.raises(InvalidPayload) as caught:
        parse_download(raw)
    return caught.value


def test_what_is_needed_is_url_and_folder():
    """All else has a default."""
    request = parse_download({"url": URL, "model_type": "loras", "later": 1})
    assert (request.url, request.model_type, request.wait) == (URL, "loras", False)
    assert request.filename is request.auth is request.sha256 is request.size is None


@pytest.mark.parametrize(
    ("raw", "location"),
    [
        ({"model_type": "loras"}, "url"),
        ({"url": URL}, "model_type"),
        ({"url": 5, "model_type": "loras"}, "url"),
        ({"url": "", "model_type": "loras"}, "url"),
        ({"url": URL, "model_type": "loras", "sha256": "abc"}, "sha256"),
        ({"url": URL, "model_type": "loras", "size": -1}, "size"),
        ({"url": URL, "model_type": "loras", "auth": {"type": "magic"}}, "auth"),
        ({"url": URL, "model_type": "loras", "file_name": "x"}, "file_name"),
        ([], None),
        ("text", None),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_its_place(raw, location):
    """Misspelt keys, too."""
    assert refused(raw).location == location


@pytest.mark.parametrize(
    "url",
    ["not-a-valid-url", "http://", "https:///x", "http://h:port/x", "http://[::1", "ht tp://h/x",
     "http://h/a b", "s3://", "model.safetensors", "http://h/\n"],
)  # fmt: skip
def test_what_is_no_url_is_refused(url):
    """Before anybody is asked."""
    assert "not a valid URL" in refused({"url": url, "model_type": "loras"}).message


@pytest.mark.parametrize(
    "url", [URL, "s3://b/k", "gs://b/k", "/mnt/x.ckpt", "file:///mnt/x", "ftp://h/x"]
)
def test_any_scheme_is_a_url(url):
    """Who takes it is asked of the sources."""
    assert parse_download({"url": url, "model_type": "loras"}).url == url


def test_no_fault_shows_a_secret():
    """Neither a fault's text nor the request's has what was sent in secret places."""
    auth = {"type": "header", "header_name": "bad name", "header_value": "canary4711"}
    fault = refused({"url": URL, "model_type": "loras", "auth": auth})
    bearer = {"type": "bearer", "token": "canary4711"}
    request = DownloadRequest.model_validate(
        {"url": f"{URL}?token=canary4711", "model_type": "loras", "auth": bearer}
    )
    assert "canary4711" not in f"{fault.envelope()} {request!r} {request}"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (URL, "m.safetensors"),
        ("https://h/a/b%20c.ckpt?download=true#x", "b c.ckpt"),
        ("https://h/a%2Fb.ckpt", "a/b.ckpt"),
        ("https://h", ""),
        ("https://h/api/models/128713?type=Model", "128713"),
        ("http://[::1", ""),
    ],
)
def test_the_last_part_of_a_url_is_its_name(url, name):
    """Without query and fragment, escapes undone."""
    assert last_segment(url) == name


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, URL),
        ("http://u:canary@h:8/x", "http://h:8/x"),
        ("https://civitai.com/api/download/models/1?type=Model&format=SafeTensor&fp=fp16",) * 2,
        ("https://h/x?download=true&token=canary", "https://h/x?download=true&token=..."),
        (
            "https://h/x?X-Amz-Signature=canary&sig=canary",
            "https://h/x?X-Amz-Signature=...&sig=...",
        ),
        ("https://h/x?type=a;token=canary", "https://h/x?type=..."),
        ("https://h/x#canary", "https://h/x"),
        ("https://h/x?canary", "https://h/x?..."),
    ],
)
def test_a_caller_is_shown_the_url_as_it_was_sent_but_for_secrets(url, shown):
    """Clients of comfyui-api compare it with theirs."""
    assert echoed(url) == shown


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("loras", "loras"),
        ("unet", "diffusion_models"),
        ("clip", "text_encoders"),
    ],
)
def test_folders_are_known_by_the_engines_name_and_by_that_on_disk(called, name):
    """comfyui-api's callers say what the folder is called on disk."""
    assert folder_called(called, FOLDERS) == name


@pytest.mark.parametrize("called", ["lora", "shared", "custom_nodes", "../loras", "x" * 150])
def test_an_unknown_folder_brings_those_that_there_are(called):
    """The nearest first; one that means two is none, and what is run is no model."""
    with pytest.raises(InvalidPayload) as caught:
        folder_called(called, FOLDERS)
    fault = caught.value
    assert fault.location == "model_type"
    assert set(fault.details["folders"]) == set(FOLDERS.names)
    if called == "lora":
        assert fault.hint.startswith("it has loras, ")
