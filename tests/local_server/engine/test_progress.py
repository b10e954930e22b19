from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from local_server.engine.progress import InterruptError, Interruption

GRAPH = {
    "1": {"class_type": "TestNoise", "inputs": {"width": 8, "height": 8, "seed": 1}},
    "2": {"class_type": "TestSleep", "inputs": {"image": ["1", 0], "seconds": 0, "steps": 2}},
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
}
FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


def test_a_request_to_stop_is_seen_once() -> None:
    """The first check raises, the next one does not."""
    interruption = Interruption()
    interruption.ask()
    interruption.wait(60)
    with pytest.raises(InterruptError):
        interruption.check()
    interruption.check()

    assert interruption.count == 1


def test_a_forgotten_request_does_nothing() -> None:
    """A prompt that begins drops what was asked before."""
    interruption = Interruption()
    interruption.ask()
    interruption.forget()

    interruption.check()


async def test_steps_are_shown_when_previews_are_on(start: Any) -> None:
    """Each step sends a JPEG after its progress, in a frame that names nobody."""
    client = await start(previews=True)
    socket = await client.connect("c")
    await socket.until_end(await client.submit(GRAPH, "c"))
    frames = [message["frame"] for message in socket.messages if "frame" in message]

    assert len(frames) == 2
    assert frames[0][:8] == b"\0\0\0\1\0\0\0\1"
    with Image.open(BytesIO(frames[0][8:])) as picture:
        assert picture.format == "JPEG"
    place = socket.types().index("binary")
    assert socket.types()[place - 2 : place] == ["progress_state", "progress"]


async def test_previews_name_their_node_to_clients_that_ask(start: Any) -> None:
    """With the feature flag the frame carries metadata, and comes before the progress."""
    client = await start(previews=True)
    socket = await client.connect("c")
    await socket.socket.send_str(json.dumps(FLAGS))
    await socket.until_type("feature_flags")
    prompt_id = await client.submit(GRAPH, "c")
    await socket.until_end(prompt_id)
    frame = next(message["frame"] for message in socket.messages if "frame" in message)
    length = int.from_bytes(frame[4:8], "big")

    assert frame[:4] == b"\0\0\0\4"
    assert json.loads(frame[8 : 8 + length]) == {
        "node_id": "2",
        "prompt_id": prompt_id,
        "display_node_id": "2",
        "parent_node_id": None,
        "real_node_id": "2",
        "image_type": "image/jpeg",
    }
    place = socket.types().index("binary")
    assert socket.types()[place + 1] == "progress"


async def test_by_default_there_are_no_previews(client: Any) -> None:
    """Steps are told without pictures."""
    socket = await client.connect("c")
    await socket.until_end(await client.submit(GRAPH, "c"))

    assert "binary" not in socket.types()
    assert len(socket.of("progress")) == 2
