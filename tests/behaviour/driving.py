"""Ways to drive a live server: requests in the background, waits for phases, looks at results."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import httpx
import orjson
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from live import LiveServer

ENVELOPE = {
    *("error", "location", "code", "blame", "retryable", "node_id", "node_title", "class_type"),
    *("hint", "details", "log_tail", "message", "statusCode"),
}


def later(call: Callable[..., Any], *arguments: Any, **keys: Any) -> Future[Any]:
    """Call in a thread."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(call(*arguments, **keys))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def wait_until(what: str, condition: Callable[[], Any], limit_s: float = 20.0) -> Any:
    """Wait until a condition holds, and give what it gave."""
    begun = time.monotonic()
    while time.monotonic() - begun < limit_s:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {limit_s} s: {what}")


def wait_phase(server: LiveServer, job_id: str, *phases: str, limit_s: float = 20.0) -> str:
    """Wait until a job is in one of the phases, and give it."""
    with httpx.Client(verify=False, trust_env=False, timeout=30) as client:

        def found() -> str | None:
            answer = client.get(f"{server.url}/jobs/{job_id}")
            status = answer.json()["status"] if answer.status_code == 200 else ""
            return status if status in phases else None

        return str(wait_until(f"job {job_id} is {' or '.join(phases)}", found, limit_s))


def begin(server: LiveServer, job_id: str, graph: dict[str, Any], **keys: Any) -> Future[Any]:
    """POST a graph in the background and wait until the server has the job."""
    answer = later(server.prompt, graph, id=job_id, **keys)
    known = lambda: answer.done() or server.get(f"/jobs/{job_id}").status_code == 200  # noqa: E731
    wait_until(f"job {job_id} is known", known)
    return answer


def assert_no_files_left(server: LiveServer, limit_s: float = 20.0) -> None:
    """Make sure that jobs leave no files; the last ones go just after their answer is sent."""
    wait_until("no files are left", lambda: not server.left_files(), limit_s)


def picture_of(response: httpx.Response, index: int = 0) -> Image.Image:
    """Decode a picture of an answer."""
    assert response.status_code == 200, response.text[:2000]
    raw = base64.b64decode(response.json()["images"][index])
    return Image.open(io.BytesIO(raw)).convert("RGB")


def color_of(picture: Image.Image) -> int:
    """Give the colour in the middle of a picture."""
    red, green, blue = picture.getpixel((picture.width // 2, picture.height // 2))  # type: ignore[misc]
    return int(red) << 16 | int(green) << 8 | int(blue)


def assert_picture(
    response: httpx.Response, color: int, size: tuple[int, int] = (16, 16)
) -> Image.Image:
    """Make sure that an answer's first picture is of that colour and size."""
    picture = picture_of(response)
    assert picture.size == size
    far = max(abs((color_of(picture) >> s & 255) - (color >> s & 255)) for s in (16, 8, 0))
    assert far <= 1, f"{color_of(picture):06x} is not {color:06x}"
    return picture


def assert_error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Make sure that an answer is an error of that kind with every key, and give its body."""
    assert response.status_code == status, (response.status_code, response.text[:2000])
    assert response.headers["content-type"].startswith("application/json")
    body: dict[str, Any] = response.json()
    assert set(body) - {"stats"} == ENVELOPE
    assert body["code"] == code
    assert body["statusCode"] == status
    assert body["error"] == body["message"] != ""
    return body


class Client:
    """A caller on a bare connection, who can leave without a word."""

    def __init__(self, server: LiveServer, body: dict[str, Any]) -> None:
        raw = orjson.dumps(body)
        head = (
            "POST /prompt HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(raw)}\r\n\r\n"
        )
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self._socket.sendall(head.encode() + raw)

    def leave(self) -> None:
        """Close the connection."""
        self._socket.close()
