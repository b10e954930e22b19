"""A ComfyUI that runs already: files go over HTTP, results are the same, its loss is survived."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING

from behaviour.driving import (
    assert_error,
    assert_no_files_left,
    assert_picture,
    begin,
    picture_of,
    wait_phase,
    wait_until,
)
from behaviour.file_server import FileServer, png
from behaviour.graphs import fresh_color, load, node, picture, save, slow
from behaviour.lone_engine import LoneEngine

if TYPE_CHECKING:
    from behaviour.proxy import Proxy
    from live import LiveServer


def test_inputs_are_uploaded_and_outputs_viewed(
    attached: tuple[LiveServer, Proxy, LoneEngine], files: FileServer
) -> None:
    """By URL, data URI and base64, in two nodes at once; previews too."""
    server, _, _ = attached
    inline = base64.b64encode(png(24, 16, (200, 10, 30))).decode()
    sources = (
        (f"{files.url}/quick.png", 0x0AC81E),
        (inline, 0xC80A1E),
        (f"data:image/png;base64,{inline}", 0xC80A1E),
    )
    for source, color in sources:
        assert_picture(server.prompt(load(source)), color, (24, 16))
    graph = {
        "1": node("LoadImage", image=sources[0][0]),
        "2": node("LoadImage", image=sources[1][0]),
        "8": node("PreviewImage", images=["2", 0]),
        "9": save("1"),
    }
    answer = server.prompt(graph, include_temp=True)
    assert picture_of(answer, 0).size == picture_of(answer, 1).size == (24, 16)
    assert answer.json()["engine"]["kind"] == "attached"
    assert_no_files_left(server)


def test_attached_engine_gives_what_an_own_one_gives(
    attached: tuple[LiveServer, Proxy, LoneEngine], server: LiveServer
) -> None:
    """The same graph, the same bytes of pixels and the same names."""
    if server.engine != attached[0].engine:
        return
    color = fresh_color()
    answers = [one.prompt(picture(40, 30, color), id="same") for one in (server, attached[0])]
    assert picture_of(answers[0]).tobytes() == picture_of(answers[1]).tobytes()
    assert answers[0].json()["filenames"] == answers[1].json()["filenames"]


def test_attached_engine_that_goes_and_comes_back(
    attached: tuple[LiveServer, Proxy, LoneEngine],
) -> None:
    """Its job fails in some seconds, the worker says it is not ready, and recovers by itself."""
    server, _, lone = attached
    job = begin(server, "lost", slow(server.engine, 30))
    wait_phase(server, "lost", "running")
    killed_at = time.monotonic()
    lone.kill()
    body = assert_error(job.result(20), 502, "engine_died")
    assert time.monotonic() - killed_at < 8
    assert body["retryable"] is True
    wait_until("it is not ready", lambda: server.get("/ready").status_code == 503, 10)
    assert server.get("/health").json()["phase"] == "recovering"
    color = fresh_color()
    waiting = begin(server, "waits", picture(color=color))
    lone.start()
    assert_picture(waiting.result(60), color)
    assert server.get("/ready").status_code == 200


def test_attached_engine_that_is_not_there_yet(start_server, tmp_path) -> None:
    """The worker waits for it, and so do its jobs."""
    lone = LoneEngine(tmp_path / "late")
    server = start_server(ready=False, ENGINE="auto", COMFY_URL=lone.url)
    assert server.get("/ready").status_code == 503
    color = fresh_color()
    job = begin(server, "early", picture(color=color))
    try:
        lone.start()
        assert_picture(job.result(20), color)
    finally:
        lone.kill()
