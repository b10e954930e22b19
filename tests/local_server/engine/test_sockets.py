"""Who gets which messages; what a connection is greeted with is in test_replay.py."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

SLEEP = {"image": ["1", 0], "seconds": 60, "steps": 6000}
NOISE = {"class_type": "TestNoise", "inputs": {"width": 8, "height": 8, "seed": 1}}
SLOW = {
    "1": NOISE,
    "2": {"class_type": "TestSleep", "inputs": SLEEP},
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
}
TEXT = {"1": {"class_type": "TestText", "inputs": {"text": "a"}}}


async def test_a_prompt_without_a_client_is_only_partly_told(client: Any) -> None:
    """Progress and interrupts go to all, starts, outputs and ends to nobody."""
    one, two = await client.connect("one"), await client.connect("two")
    prompt_id = await client.submit(SLOW)
    await one.until_type("progress")
    await client.post("/interrupt", {})
    await client.ended(prompt_id)
    await client.settle()

    told = {"status", "progress_state", "progress", "execution_interrupted", "settled"}
    assert set(one.types()) == set(two.types()) == told
    assert one.of("execution_interrupted")[0]["prompt_id"] == prompt_id


async def test_another_client_gets_only_the_status(client: Any) -> None:
    """Everything else goes to the client of the prompt."""
    mine, other = await client.connect("mine"), await client.connect("other")
    prompt_id = await client.submit(TEXT, "mine")
    await mine.until_end(prompt_id)
    await client.settle()

    assert set(other.types()) == {"status", "settled"}
    assert [told["status"]["exec_info"]["queue_remaining"] for told in other.of("status")] == [
        0,
        1,
        1,
        0,
    ]


async def test_a_client_that_comes_back_is_told_the_running_node(client: Any) -> None:
    """After the greeting comes the node, without prompt id; earlier messages do not come again."""
    first = await client.connect("c")
    prompt_id = await client.submit(SLOW, "c")
    await first.until_type("progress")
    await first.close()
    second = await client.connect("c")
    await second.until_type("progress")
    await client.post("/interrupt", {})
    await second.until_end(prompt_id)

    assert second.types()[:2] == ["status", "executing"]
    assert second.messages[1]["data"] == {"node": "2"}
    assert second.of("execution_start") == []


async def test_a_client_that_comes_back_later_is_told_nothing(client: Any) -> None:
    """After the end there is no running node."""
    first = await client.connect("c")
    await first.until_end(await client.submit(TEXT, "c"))
    await first.close()
    second = await client.connect("c")
    await client.settle()

    assert second.types() == ["status", "settled"]


async def test_the_older_of_two_connections_takes_the_newer_down(client: Any) -> None:
    """The newer one gets the messages until the older closes, then nobody does."""
    older, newer = await client.connect("c"), await client.connect("c")
    await newer.until_end(await client.submit(TEXT, "c"))
    assert older.types() == ["status"]
    await older.close()
    prompt_id = await client.submit(TEXT, "c")
    await client.ended(prompt_id)
    witness = await client.connect("witness")
    client.engine.sockets.post("settled", {})
    await witness.until_type("settled")

    assert not newer.socket.closed
    assert "settled" not in newer.types()
    assert prompt_id not in str(newer.messages)


async def test_a_broken_connection_has_no_closing_handshake(client: Any) -> None:
    """Dropped sockets end with code 1006, and others can be opened."""
    socket = await client.connect("c")
    assert (await client.get("/_test/state"))["sockets"] == 1
    await client.post("/_test/drop_sockets", {})
    await socket.until_type("closed")
    again = await client.connect("c")

    assert socket.socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
    assert again.types() == ["status"]
    assert repr(client.engine.sockets) == "Sockets(1 registered, 1 open)"


async def test_a_message_to_a_connection_that_just_broke_is_lost(client: Any) -> None:
    """The others still get theirs."""
    sockets = client.engine.sockets
    await client.connect("broken")
    sockets.abort_all()
    await sockets._send("late", {}, None)
    other = await client.connect("other")
    await client.submit(TEXT, "other")

    await other.until_type("execution_success")


async def test_withheld_messages_are_lost(client: Any) -> None:
    """While frozen nothing arrives, and the connection stays open."""
    socket = await client.connect("c")
    await client.post("/_test/freeze_sockets", {"frozen": True})
    await client.run(TEXT, client_id="c")
    await client.post("/_test/freeze_sockets", {"frozen": False})
    prompt_id = await client.submit(TEXT, "c")
    await socket.until_end(prompt_id)

    assert len(socket.of("execution_start")) == 1


async def test_connections_can_be_refused(client: Any) -> None:
    """While refusing, the upgrade is answered with 503."""
    await client.post("/_test/refuse_ws", {"refuse": True})
    with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
        await client.session.ws_connect("/ws?clientId=c")
    await client.post("/_test/refuse_ws", {"refuse": False})

    assert (await client.connect("c")).types() == ["status"]


async def test_the_same_socket_is_under_api(client: Any) -> None:
    """A client behind a proxy may use /api/ws."""
    socket = await client.connect(path="/api/ws?clientId=c")

    assert socket.messages[0]["data"]["sid"] == "c"


async def test_binary_and_other_text_are_ignored(client: Any) -> None:
    """Feature flags count only as the first JSON; lists and bytes do no harm."""
    socket = await client.connect("c")
    await socket.socket.send_bytes(b"x")
    await socket.socket.send_str("[1]")
    await socket.socket.send_str('{"type": "feature_flags", "data": {}}')
    prompt_id = await client.submit(TEXT, "c")
    await socket.until_end(prompt_id)

    assert socket.of("feature_flags") == []
