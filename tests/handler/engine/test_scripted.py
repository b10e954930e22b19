"""Every transcript goes over real HTTP and WebSockets, through the client and the shared socket."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import aiohttp
import pytest
from yarl import URL

from handler.engine.client import ComfyClient
from handler.engine.events import Failed, Gone, Interrupted, NodeOutput, Succeeded
from handler.engine.execution import Execution
from handler.engine.messages import PreviewFrame, Status, Unknown
from handler.engine.scripted import ScriptedEngine
from handler.engine.socket import EngineSocket

FILES = sorted((Path(__file__).parents[2] / "recordings" / "transcripts").glob("*.json"))
ENDS = (Succeeded, Failed, Interrupted, Gone)
END_MESSAGES = {
    "execution_success": Succeeded,
    "execution_error": Failed,
    "execution_interrupted": Interrupted,
}


def load(path):
    return json.loads(path.read_text())


def opened(transcript):
    """Connection name -> client id, None where the opening was not recorded."""
    names = {entry.get("conn", "main"): None for entry in transcript["ws"] if "text" in entry}
    for entry in transcript["ws"]:
        if entry.get("event") == "open":
            names[entry.get("conn", "main")] = URL(entry["path"]).query.get("clientId", "")
    return names


def prompts_of(transcript):
    for entry in transcript["http"]:
        body, answer = entry.get("request_body"), entry.get("response_body")
        if entry["path"] == "/prompt" and entry.get("status") == 200 and isinstance(body, dict):
            yield body.get("client_id"), answer["prompt_id"]


def main_client(transcript):
    """The client whose prompts the recording is about."""
    counted = Counter(client for client, _ in prompts_of(transcript) if client)
    ids = [client for client in opened(transcript).values() if client]
    return counted.most_common(1)[0][0] if counted else (ids or ["nobody"])[0]


class Replay:
    """One client following its prompts, as a service would."""

    def __init__(self, transcript, url):
        self.transcript = transcript
        self.client = ComfyClient(url, client_id=main_client(transcript))
        self.socket = EngineSocket(self.client, self.on_message, self.on_state)
        self.messages = []
        self.runs = []
        self.events = {}
        self.all_arrived = asyncio.Event()
        self.due = self.frames_due()

    async def __aenter__(self):
        self.socket.start()
        return self

    async def __aexit__(self, *_):
        await self.socket.stop()
        await self.client.close()

    async def wait_for_frames(self):
        if self.due:
            await asyncio.wait_for(self.all_arrived.wait(), 10)

    def on_message(self, message):
        self.messages.append(message)
        if len(self.messages) >= self.due:
            self.all_arrived.set()
        for execution in self.runs:
            self.events[execution] += execution.feed(message)

    def on_state(self, connected, generation):
        if connected and generation > 1:
            for execution in self.runs:
                execution.feed_reconnected()

    async def make(self, entry, session, url):
        """Make one recorded request and check the answer."""
        answer = entry.get("response_body")
        if entry["method"] == "GET" and entry["path"].startswith("/history/"):
            prompt_id = unquote(entry["path"].removeprefix("/history/"))
            found = await self.client.history(prompt_id)
            assert found == (answer or {}).get(prompt_id)
        elif any(client == self.client.client_id for client, _ in prompts_of({"http": [entry]})):
            graph = entry["request_body"]["prompt"]
            execution = Execution(answer["prompt_id"], graph)
            self.runs.append(execution)
            self.events[execution] = []
            await self.client.submit(answer["prompt_id"], graph)
        else:
            target = URL(url + entry["path"], encoded=True)
            body = entry.get("request_body")
            async with session.request(entry["method"], target, json=body) as response:
                assert response.status == entry["status"]

    async def settle(self, execution):
        """Ask history where the socket could not tell the end."""
        recorded = await self.client.history(execution.prompt_id)
        if recorded is None and self.true_end(execution.prompt_id) is not Gone:
            assert execution.needs_history
            self.runs.remove(execution)  # the recording stops short of asking
            return
        self.events[execution] += execution.feed_history(recorded, in_queue=False)

    def frames_due(self):
        names = {name for name, client in opened(self.transcript).items()
                 if client in (None, self.client.client_id)}  # fmt: skip
        return sum(
            entry.get("conn", "main") in names and ("text" in entry or "binary" in entry)
            for entry in self.transcript["ws"]
        )

    def true_end(self, prompt_id):
        ends = [
            END_MESSAGES[entry["text"]["type"]]
            for entry in self.transcript["ws"]
            if isinstance(entry.get("text"), dict)
            and entry["text"]["type"] in END_MESSAGES
            and entry["text"]["data"]["prompt_id"] == prompt_id
        ]
        for entry in self.transcript["http"]:
            body = entry.get("response_body")
            if entry["path"].startswith("/history") and isinstance(body, dict):
                told = body.get(prompt_id, {}).get("status", {}).get("messages", [])
                ends += [END_MESSAGES[kind] for kind, _ in told if kind in END_MESSAGES]
        return ends[-1] if ends else Gone


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_a_transcript_is_followed_to_the_end_of_each_prompt(path):
    """All answers are as recorded, all frames arrive, and each prompt has its one true end."""
    transcript = load(path)
    async with (
        ScriptedEngine(transcript) as engine,
        aiohttp.ClientSession() as session,
        Replay(transcript, engine.url) as replay,
    ):
        for entry in transcript["http"]:
            if "status" in entry:
                await replay.make(entry, session, engine.url)
        await replay.wait_for_frames()
        for execution in list(replay.runs):
            if not execution.ended:
                await replay.settle(execution)

    assert not [message for message in replay.messages if isinstance(message, Unknown)]
    for execution in replay.runs:
        events = replay.events[execution]
        ends = [type(event) for event in events if isinstance(event, ENDS)]
        assert ends == [replay.true_end(execution.prompt_id)]
        told = [event.node_id for event in events if isinstance(event, NodeOutput)]
        assert len(told) == len(set(told))


def test_the_transcripts_are_small_and_hold_no_source():
    """Recordings are facts: no lines of the engine's code, no texts for its users."""
    assert len(FILES) > 25
    for path in FILES:
        text = path.read_text()
        assert len(text) < 60_000
        for word in ('"tooltip"', '"description"', "Traceback", '.py\\", line'):
            assert word not in text


async def test_frames_wait_for_the_requests_before_them():
    """Nothing of a run is sent before its prompt was submitted."""
    transcript = load(next(path for path in FILES if path.stem == "01_success_image"))
    async with ScriptedEngine(transcript) as engine:
        client = ComfyClient(engine.url, client_id=main_client(transcript))
        async with client.frames() as frames:
            arriving = aiter(frames)
            await anext(arriving)
            waiting = asyncio.ensure_future(anext(arriving))
            await client.queue()
            assert not waiting.done()
            await client.submit("p", {"1": {}})
            assert b"queue_remaining" in (await waiting).encode()
        await client.close()
    assert [request[:2] for request in engine.requests] == [("GET", "/queue"), ("POST", "/prompt")]


async def test_what_was_not_recorded_is_an_idle_engine():
    """An empty queue, an empty history, orders taken, and nothing else."""
    async with ScriptedEngine({"http": [], "ws": []}) as engine:
        client = ComfyClient(engine.url, client_id="me")
        assert (await client.queue()).running == ()
        assert await client.history("p") is None
        await client.interrupt("p")
        async with client.frames() as frames:
            assert "me" in await anext(aiter(frames))
        async with aiohttp.ClientSession() as session, session.get(engine.url + "/x") as answer:
            assert answer.status == 404
        await client.close()


async def test_answers_go_on_with_the_last_one():
    """Asking more often than the recording did gives the last answer again."""
    answers = [
        {"t": t, "method": "GET", "path": "/queue", "status": 200, "response_body": body}
        for t, body in enumerate(
            [
                {"queue_running": [[0, "p"]], "queue_pending": []},
                {"queue_running": [], "queue_pending": []},
            ]
        )
    ]
    async with ScriptedEngine({"http": answers, "ws": []}) as engine:
        client = ComfyClient(engine.url, client_id="me")
        assert [(await client.queue()).running for _ in range(3)] == [("p",), (), ()]
        await client.close()


@pytest.mark.parametrize(
    ("stem", "named"),
    [("11c_txt2img_preview_legacy", False), ("11d_txt2img_preview_metadata", True)],
)
async def test_recorded_previews_are_made_into_frames(stem, named):
    """Both forms of binary frames come through; only the newer one names its node."""
    transcript = load(next(path for path in FILES if path.stem == stem))
    async with (
        ScriptedEngine(transcript) as engine,
        Replay(transcript, engine.url) as replay,
    ):
        await replay.client.submit("p", {"1": {}})
        await replay.wait_for_frames()

    previews = [message for message in replay.messages if isinstance(message, PreviewFrame)]
    assert len(previews) == 3
    assert {preview.node is not None for preview in previews} == {named}
    assert isinstance(replay.messages[0], Status)


async def test_a_dropped_and_restarted_script_goes_on_at_the_same_port():
    """Cut sockets and a restart are what a crash looks like from outside."""
    states = asyncio.Queue()
    async with ScriptedEngine({"http": [], "ws": []}) as engine:
        client = ComfyClient(engine.url, client_id="me")
        socket = EngineSocket(
            client,
            lambda message: None,
            lambda connected, generation: states.put_nowait((connected, generation)),
            backoff_s=(0.01, 0.05),
        )
        socket.start()
        async with asyncio.timeout(10):
            assert await states.get() == (True, 1)
            engine.drop_sockets()
            assert [await states.get() for _ in range(2)] == [(False, 1), (True, 2)]
            await engine.stop()
            assert await states.get() == (False, 2)
            await engine.start()
            assert await states.get() == (True, 3)
        await socket.stop()
        await client.close()
