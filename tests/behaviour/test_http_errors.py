"""What is wrong with a request as HTTP: always the same envelope, never a 422 for bad JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from behaviour.driving import assert_error

if TYPE_CHECKING:
    from live import LiveServer

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
JSON = {"Content-Type": "application/json"}


def send(server: LiveServer, method: str, path: str, **options: object) -> httpx.Response:
    """Send any request."""
    return httpx.request(method, server.url + path, trust_env=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"prompt": ', b"[1, 2]", b"null", b'"x"', b"\xff\xfe{}", b"[" * 100_000]
)
@pytest.mark.parametrize("path", ["/prompt", "/interrupt"])
def test_body_that_is_no_payload_is_a_400(server: LiveServer, path: str, body: bytes) -> None:
    """Broken JSON, and JSON of another kind, is the caller's fault and told as such."""
    assert_error(send(server, "POST", path, content=body, headers=JSON), 400, "invalid_payload")


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({"id": "x"}, "prompt"),
        ({"prompt": {}, "id": 7}, "id"),
        ({"prompt": {}, "timeouts": {"total_s": -1}}, "timeouts.total_s"),
        ({"prompt": {}, "timeouts": {"tootal_s": 1}}, "timeouts.tootal_s"),
        ({"prompt": {}, "include_temp": "perhaps"}, "include_temp"),
    ],
)
def test_payload_that_does_not_fit_names_the_place(
    server: LiveServer, body: object, location: str
) -> None:
    """The location leads to the key at fault."""
    told = assert_error(server.post("/prompt", body), 400, "invalid_payload")
    assert told["location"] == location


def test_other_content_types_are_refused(server: LiveServer) -> None:
    """Only JSON is taken; a charset beside it is fine."""
    headers = {"Content-Type": "text/xml"}
    answer = send(server, "POST", "/prompt", content=b"<a/>", headers=headers)
    assert_error(answer, 415, "unsupported_media_type")
    headers = {"Content-Type": "application/json; charset=utf-8"}
    answer = send(server, "POST", "/interrupt", content=b'{"id": "x"}', headers=headers)
    assert answer.status_code == 404


@pytest.mark.parametrize("path", ["/nothing", "/prompt/x", "/", "/jobs/none", "/jobs/none/events"])
def test_unknown_paths_are_a_404(server: LiveServer, path: str) -> None:
    """Routes and jobs that do not exist answer in the same envelope."""
    assert_error(send(server, "GET", path, follow_redirects=True), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/prompt"), ("POST", "/health"), ("DELETE", "/jobs/x")]
)
def test_wrong_methods_are_a_405(server: LiveServer, method: str, path: str) -> None:
    """A route for another method says so."""
    assert_error(send(server, method, path), 405, "method_not_allowed")
