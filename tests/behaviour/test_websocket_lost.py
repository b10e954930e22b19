"""The engine's WebSocket is cut, freezes or is refused: results come all the same."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx
import pytest
from behaviour.driving import assert_picture, begin, later, wait_phase, wait_until
from behaviour.graphs import fresh_color, picture, slow

if TYPE_CHECKING:
    from live import LiveServer


def switch(server: LiveServer, name: str, **body: object) -> None:
    """Turn one of the embedded engine's switches."""
    httpx.post(f"{server.engine_url}/_test/{name}", json=body, trust_env=False).raise_for_status()


def test_websocket_that_is_cut_in_a_run_costs_nothing(attached) -> None:
    """The connection is made anew, and the history has what was missed."""
    server, proxy, _ = attached
    color = fresh_color()
    job = begin(server, "cut", slow(server.engine, 3, 24, 20, color))
    wait_phase(server, "cut", "running")
    before = proxy.sockets
    proxy.cut_websockets()
    assert_picture(job.result(60), color, (24, 20))
    assert proxy.sockets > before


def test_websocket_that_is_cut_just_before_the_end_costs_nothing(attached) -> None:
    """Nobody waits for a message that was sent while no connection was there."""
    server, proxy, _ = attached
    color = fresh_color()
    proxy.refusing = True
    try:
        job = begin(server, "cut-late", slow(server.engine, 1, 24, 20, color))
        wait_phase(server, "cut-late", "running")
        proxy.cut_websockets()
        assert_picture(job.result(60), color, (24, 20))
    finally:
        proxy.refusing = False


def test_websocket_that_freezes_in_a_run_costs_little(attached) -> None:
    """A connection that is open and says nothing is seen through."""
    server, proxy, _ = attached
    color = fresh_color()
    job = begin(server, "frozen-ws", slow(server.engine, 2, 24, 20, color))
    wait_phase(server, "frozen-ws", "running")
    proxy.frozen = True
    try:
        begun = time.monotonic()
        assert_picture(job.result(90), color, (24, 20))
        if server.engine == "embedded":
            assert time.monotonic() - begun < 20
    finally:
        proxy.frozen = False
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)


def test_websocket_that_is_refused_for_good_leaves_the_history(attached) -> None:
    """Without any WebSocket jobs are slower, not lost."""
    server, proxy, _ = attached
    proxy.refusing = True
    try:
        proxy.cut_websockets()
        colors = [fresh_color() for _ in range(3)]
        jobs = [later(server.prompt, picture(color=color)) for color in colors]
        for job, color in zip(jobs, colors, strict=True):
            assert_picture(job.result(60), color)
    finally:
        proxy.refusing = False


@pytest.mark.parametrize("hard_server", ["embedded"], indirect=True)
def test_websocket_whose_messages_are_withheld_while_pongs_come(hard_server: LiveServer) -> None:
    """A heartbeat that answers is no proof that messages arrive."""
    server = hard_server
    color = fresh_color()
    job = begin(server, "withheld", slow("embedded", 1, color=color))
    wait_phase(server, "withheld", "running")
    switch(server, "freeze_sockets", frozen=True)
    begun = time.monotonic()
    assert_picture(job.result(30), color)
    assert time.monotonic() - begun < 20
    switch(server, "freeze_sockets", frozen=False)

    def connected() -> bool:
        state = httpx.get(f"{server.engine_url}/_test/state", trust_env=False, verify=False)
        return bool(state.json()["sockets"] == 1)

    wait_until("the WebSocket is there again", connected)
    begun = time.monotonic()
    assert_picture(server.prompt(picture(color=(color := fresh_color()))), color)
    assert time.monotonic() - begun < 6
