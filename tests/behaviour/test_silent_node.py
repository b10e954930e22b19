"""A node that says nothing for long is no engine that is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from behaviour.driving import assert_picture
from behaviour.graphs import empty, fresh_color, node, save, silent

if TYPE_CHECKING:
    from live import LiveServer


def test_node_without_a_word_for_seven_seconds(start_server) -> None:
    """The look-ups in the silence find a run that goes on, and its result is the right one."""
    server = start_server()
    color = fresh_color()
    assert_picture(server.prompt(silent(7, color)), color)


@pytest.mark.comfyui
@pytest.mark.timeout(240)
@pytest.mark.parametrize("server", ["comfyui"], indirect=True)
def test_single_long_node_of_a_real_engine(server: LiveServer) -> None:
    """One blur of a whole batch tells no steps for a quarter of a minute."""
    color = fresh_color()
    big = empty(1024, 1024, color)
    big["inputs"]["batch_size"] = 8
    graph = {
        "1": big,
        "2": node("ImageBlur", image=["1", 0], blur_radius=31, sigma=10.0),
        "3": node("ImageFromBatch", image=["2", 0], batch_index=0, length=1),
        "4": node("ImageCrop", image=["3", 0], width=16, height=16, x=64, y=64),
        "9": save("4"),
    }
    assert_picture(server.prompt(graph, timeouts={"no_progress_s": 200.0}), color)
