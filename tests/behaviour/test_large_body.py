"""Large bodies: refused by default, taken where allowed, never many times over in memory."""

from __future__ import annotations

import base64
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

import httpx
import orjson
from behaviour.driving import assert_error, assert_no_files_left, assert_picture
from behaviour.file_server import png
from behaviour.graphs import fresh_color, load, node, picture
from live import LiveServer, rss_mb

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
BODY_MB = 150


class Peak:
    """Watches a process's resident memory in the background."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self.before = self.most = rss_mb(pid)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def growth(self) -> float:
        """MiB over what it had before."""
        return self.most - self.before

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.most = max(self.most, rss_mb(self._pid))


def blocks(whole: bytes) -> Iterator[bytes]:
    """Give a body piece by piece: the length is not announced then."""
    for start in range(0, len(whole), MIB):
        yield whole[start : start + MIB]


def send(server: LiveServer, content: object) -> httpx.Response:
    """POST a raw body."""
    return httpx.post(
        f"{server.url}/prompt",
        content=content,  # type: ignore[arg-type]
        headers={"Content-Type": "application/json"},
        timeout=60,
        trust_env=False,
    )


def test_body_over_the_default_limit_is_a_413(server: LiveServer) -> None:
    """Whether its length is announced or not; the server goes on."""
    body = b'{"prompt": {}, "pad": "' + b"x" * (BODY_MB * MIB) + b'"}'
    assert_error(send(server, body), 413, "payload_too_large")
    assert_error(send(server, blocks(body)), 413, "payload_too_large")
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)


def test_large_body_is_taken_with_bounded_memory(start_server) -> None:
    """A body of 150 MiB costs well under two and a half times its size, and gives it back."""
    server = start_server(MAX_BODY_SIZE_MB="200")
    pid = server.process.pid
    color = fresh_color()
    ignored = orjson.dumps({"prompt": picture(color=color), "pad": "x" * (BODY_MB * MIB)})
    padded = png(24, 16) + b"\0" * (BODY_MB * MIB * 3 // 4)
    pictured = orjson.dumps({"prompt": load(base64.b64encode(padded).decode())})
    server.prompt(picture()).raise_for_status()
    figures = []
    for name, body, expected, size in (
        ("ignored key", ignored, color, (16, 16)),
        ("base64 picture", pictured, 0x0AC81E, (24, 16)),
    ):
        with Peak(pid) as peak:
            begun = time.monotonic()
            answer = send(server, body)
            took = time.monotonic() - begun
        assert_picture(answer, expected, size)
        ratio = peak.growth / (len(body) / MIB)
        after = rss_mb(pid) - peak.before
        figures.append((name, ratio))
        sys.stdout.write(
            f"{name}: {len(body) >> 20} MiB in {took:.2f} s, peak +{peak.growth:.0f} MiB "
            f"({ratio:.2f} times the body), +{after:.0f} MiB afterwards\n"
        )
        assert after < 40
    assert all(ratio < 2.2 for _, ratio in figures), figures
    assert_no_files_left(server)


def test_long_texts_arrive_as_they_are(server: LiveServer) -> None:
    """Texts that look like media, with and without what must be escaped, are not changed."""
    plain = "QUJD/+=" * 40_000
    texts = [
        plain,
        f"data:image/png;base64,{plain}",
        f'"{plain}"\\"{plain}',
        f"é{plain}\n",
        "short",
    ]
    graph = {}
    for index, text in enumerate(texts):
        graph[f"t{index}"] = node("PrimitiveStringMultiline", value=text)
        graph[f"s{index}"] = node("PreviewAny", source=[f"t{index}", 0])
    answer = server.prompt(graph)
    assert answer.status_code == 200, answer.text[:2000]
    told = {output["node_id"]: output["text"] for output in answer.json()["outputs"]}
    assert told == {f"s{index}": text for index, text in enumerate(texts)}
    broken = orjson.dumps({"prompt": graph})[:-1] + b" oops}"
    assert "line 1 column" in assert_error(send(server, broken), 400, "invalid_payload")["error"]
