import asyncio
import contextlib
import json
import os
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from handler.engine.base import GraphRefused
from handler.engine.client import ComfyClient, QueueState
from handler.engine.messages import Status, parse
from handler.engine.scripted import ScriptedEngine
from handler.errors import (
    EngineDied,
    EngineRefused,
    InternalFault,
    InvalidWorkflow,
    NotFound,
    Stalled,
)

TRANSCRIPTS = Path(__file__).parents[2] / "recordings" / "transcripts"
GRAPH = {"1": {"class_type": "PreviewAny", "inputs": {"source": "x"}}}


def load(name):
    return json.loads((TRANSCRIPTS / f"{name}.json").read_text())


@contextlib.asynccontextmanager
async def engine(answer, **client_options):
    """Serve `answer(request)` for every path; give a client of it and the requests made."""
    requests = []

    async def handle(request):
        requests.append((request, await request.read()))
        return await answer(request)

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    client = ComfyClient(url, client_id="me", **client_options)
    try:
        yield client, requests
    finally:
        await client.close()
        await runner.cleanup()


def answering(body, status=200):
    async def answer(request):
        if isinstance(body, bytes | str):
            return web.Response(body=body, status=status)
        return web.json_response(body, status=status)

    return answer


async def test_submit_sends_the_ids_and_gives_node_errors():
    """The prompt names its own id and the socket that gets its messages."""
    async with engine(answering({"prompt_id": "p", "node_errors": {}})) as (client, requests):
        assert await client.submit("p", GRAPH, {"extra_pnginfo": {"a": 1}}) == {}
        assert await client.submit("q", GRAPH) == {}

    first, second = (json.loads(body) for _, body in requests)
    assert first == {
        "prompt": GRAPH,
        "prompt_id": "p",
        "client_id": "me",
        "extra_data": {"extra_pnginfo": {"a": 1}},
    }
    assert second == {"prompt": GRAPH, "prompt_id": "q", "client_id": "me"}
    request = requests[0][0]
    assert request.headers["Content-Type"] == "application/json"
    assert "Origin" not in request.headers


async def test_a_partly_refused_graph_gives_its_faults():
    """An answer of 200 can still carry node errors: the rest of the graph runs."""
    faults = {"3": {"errors": [{"type": "value_not_in_list"}], "class_type": "KSampler"}}

    async with engine(answering({"node_errors": faults})) as (client, _):
        assert await client.submit("p", GRAPH) == faults


@pytest.mark.parametrize(
    "name", ["04_validation_error_unknown_node", "05_validation_error_bad_value"]
)
async def test_a_refused_graph_tells_comfyuis_own_words(name):
    """What the engine found is in the details, as it said it."""
    transcript = load(name)
    refusals = 0
    async with ScriptedEngine(transcript) as scripted:
        client = ComfyClient(scripted.url, client_id="me")
        for recorded in transcript["http"]:
            if recorded["path"] != "/prompt":
                continue
            body = recorded["response_body"]
            if recorded["status"] == 200:
                assert await client.submit("p", GRAPH) == body["node_errors"]
                continue
            with pytest.raises(GraphRefused) as caught:
                await client.submit("p", GRAPH)
            assert caught.value.error == body["error"]
            assert caught.value.node_errors == body["node_errors"]
            assert caught.value.engine_status == 400
            assert body == caught.value.details
            assert caught.value.message == body["error"]["message"]
            assert caught.value.envelope()["code"] == "invalid_workflow"
            refusals += 1
        await client.close()
    assert refusals > 2


async def test_a_refusal_of_another_shape_is_a_refusal_still():
    """Forks and older versions answer with a text for an error."""
    async with engine(answering({"error": "no"}, 400)) as (client, _):
        with pytest.raises(GraphRefused, match="no"):
            await client.submit("p", GRAPH)


async def test_a_graph_that_is_no_json_is_the_callers():
    """Python values that JSON has not are found before anything is sent."""
    async with engine(answering({})) as (client, requests):
        with pytest.raises(InvalidWorkflow):
            await client.submit("p", {"1": {"inputs": {"x": {1, 2}}}})
    assert requests == []


async def test_the_submit_path_costs_little():
    """A submit takes well under a millisecond of the client's and a real server's CPU."""
    graph = {str(n): {"class_type": "KSampler", "inputs": {"seed": n}} for n in range(30)}
    async with engine(answering(b'{"node_errors": {}}')) as (client, _):
        for _ in range(20):
            await client.submit("warm", graph)
        begun = time.process_time()
        for _ in range(100):
            await client.submit("p", graph)
        spent_s = (time.process_time() - begun) / 100

    # Both ends of the connection run in this process; the bound allows for a slow machine.
    assert spent_s < 0.005


async def test_the_queue_is_read_as_ids():
    """Whole graphs come with it and are not kept."""
    item = [1, "a/b", GRAPH, {}, ["1"]]
    answer = {"queue_running": [item], "queue_pending": [[2, "c", GRAPH, {}, []]]}

    async with engine(answering(answer)) as (client, _):
        queue = await client.queue()
    assert queue == QueueState(("a/b",), ("c",))
    assert "a/b" in queue
    assert "c" in queue
    assert "d" not in queue


@pytest.mark.parametrize("answer", [{}, {"queue_running": [[1]], "queue_pending": []}, []])
async def test_a_queue_of_another_shape_is_refused(answer):
    """An answer out of protocol does not pass for an empty queue."""
    async with engine(answering(answer)) as (client, _):
        with pytest.raises(EngineRefused):
            await client.queue()


async def test_history_gives_the_entry_or_none():
    """Ids may hold slashes and spaces."""
    async with engine(answering({"a/b c": {"outputs": {}}})) as (client, requests):
        assert await client.history("a/b c") == {"outputs": {}}
        assert await client.history("other") is None
    assert requests[0][0].raw_path == "/history/a%2Fb%20c"


async def test_orders_go_to_their_routes():
    """Each order is one POST with the body that ComfyUI reads."""
    async with engine(answering(b"")) as (client, requests):
        await client.forget(["a", "b"])
        await client.delete_pending(("a",))
        await client.interrupt("a")

    assert [(request.path, json.loads(body)) for request, body in requests] == [
        ("/history", {"delete": ["a", "b"]}),
        ("/queue", {"delete": ["a"]}),
        ("/interrupt", {"prompt_id": "a"}),
    ]


async def test_infos_are_read():
    """System, node classes and models come as recorded."""
    transcript = load("16_models_and_info")
    async with ScriptedEngine(transcript) as scripted:
        client = ComfyClient(scripted.url + "/", client_id="me")
        assert "system" in await client.system_stats()
        assert "KSampler" in await client.object_info("KSampler")
        assert await client.object_info() == {}
        assert "checkpoints" in await client.models()
        assert await client.models_in("checkpoints")
        with pytest.raises(NotFound) as caught:
            await client.models_in("nope")
        assert caught.value.blame == "platform"
        await client.close()


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"oops", 500), (b"oops", 200), (b"[]", 200), (b"", 403), (b"\xff\xfe", 200)],
)
async def test_answers_out_of_protocol_are_refusals(body, status):
    """A 5xx, another status, no JSON, or JSON of another kind is EngineRefused."""
    async with engine(answering(body, status)) as (client, _):
        with pytest.raises(EngineRefused):
            await client.system_stats()
        with pytest.raises(EngineRefused):
            await client.submit("p", GRAPH)


async def test_a_list_is_asked_for_and_an_object_refused():
    """Model lists are lists."""
    async with engine(answering({})) as (client, _):
        with pytest.raises(EngineRefused):
            await client.models()


async def test_the_engines_words_are_in_the_details():
    """A refusal shows the status and the beginning of the body."""
    async with engine(answering("é" * 5000, 500)) as (client, _):
        with pytest.raises(EngineRefused) as caught:
            await client.submit("p", GRAPH)
    assert caught.value.details == {"status": 500, "body": "é" * 1000}


async def test_a_refused_connection_is_a_dead_engine(unused_tcp_port):
    """Nobody listens: HTTP and WebSocket say the same."""
    client = ComfyClient(f"http://127.0.0.1:{unused_tcp_port}", client_id="me")
    with pytest.raises(EngineDied):
        await client.system_stats()
    with pytest.raises(EngineDied):
        async with client.frames():
            pass
    await client.close()


async def test_a_dropped_connection_is_a_dead_engine(tmp_path):
    """The engine dies while it answers, before the headers or in the body."""

    async def at_once(request):
        request.transport.abort()
        return web.Response()

    async def midway(request):
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{")
        request.transport.close()
        return response

    for answer in (at_once, midway):
        async with engine(answer) as (client, _):
            with pytest.raises(EngineDied):
                await client.submit("p", GRAPH)
            with pytest.raises(EngineDied):
                await client.view("a.png", "", "output", tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


async def test_an_engine_that_does_not_answer_is_stalled(tmp_path):
    """A frozen process still accepts connections; its silence is bounded."""

    async def never(request):
        await asyncio.Event().wait()

    async with engine(never, connect_timeout_s=0.1, answer_timeout_s=0.1) as (client, _):
        with pytest.raises(Stalled):
            await client.system_stats()
        with pytest.raises(Stalled):
            await client.view("a.png", "", "output", tmp_path / "a.png")
        with pytest.raises(Stalled):
            async with client.frames():
                pass


async def test_a_server_that_is_no_engine_is_refused():
    """What answers garbage, or no WebSocket, is not ComfyUI."""
    async with engine(answering(b"hello")) as (client, _):
        with pytest.raises(EngineRefused):
            async with client.frames():
                pass

    async def garbage(reader, writer):
        await reader.readline()
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = ComfyClient(f"http://127.0.0.1:{port}", client_id="me")
        with pytest.raises(EngineRefused):
            await client.system_stats()
        await client.close()


async def test_errors_in_the_block_of_a_connection_stay_what_they_are():
    """Only what the connection raises is translated."""
    async with ScriptedEngine(load("00_ws_connect_and_feature_flags")) as scripted:
        client = ComfyClient(scripted.url, client_id="client-bbbb")
        with pytest.raises(TimeoutError):
            async with client.frames():
                raise TimeoutError
        await client.close()


async def test_frames_are_those_of_the_own_client_id():
    """The engine greets with the id that prompts are routed by."""
    async with ScriptedEngine(load("00_ws_connect_and_feature_flags")) as scripted:
        client = ComfyClient(scripted.url, client_id="client bbbb")
        async with client.frames() as frames:
            assert parse(await anext(aiter(frames))) == Status(0, "client bbbb")
        await client.close()


@pytest.mark.parametrize("name", ["pic.png", 'with "quotes" é.png', "a b%20c.bin"])
async def test_an_upload_is_sent_whole_and_by_its_plain_name(tmp_path, name):
    """The engine takes the name literally, and answers with the one it stored."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 << 20))
    got = {}

    async def store(request):
        return web.json_response({"name": "pic (1).png", "subfolder": "sub", "type": "input"})

    async def read_form(request):
        async for part in await request.multipart():
            got[part.name] = (part.filename, await part.read())
        return await store(request)

    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/upload/image", read_form)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = ComfyClient(f"http://127.0.0.1:{runner.addresses[0][1]}", client_id="me")
    stored = await client.upload(source, name, "sub", overwrite=True)
    await client.close()
    await runner.cleanup()

    assert stored == "pic (1).png"
    assert got["image"] == (name, source.read_bytes())
    assert got["subfolder"][1] == b"sub"
    assert got["overwrite"][1] == b"true"


async def test_an_upload_of_a_missing_file_is_our_fault(tmp_path):
    """Nothing is sent where there is nothing to send."""
    async with engine(answering({})) as (client, requests):
        with pytest.raises(InternalFault):
            await client.upload(tmp_path / "absent", "x.png")
    assert requests == []


async def test_a_file_is_streamed_to_its_target(tmp_path):
    """Names are quoted, the size is told."""
    content = os.urandom(2 << 20)
    async with engine(answering(content)) as (client, requests):
        target = tmp_path / "out.png"
        assert await client.view("a b&.png", "sub/dir", "temp", target) == len(content)
    assert target.read_bytes() == content
    query = requests[0][0].query
    assert dict(query) == {"filename": "a b&.png", "subfolder": "sub/dir", "type": "temp"}


async def test_a_file_that_is_not_there_leaves_the_target_alone(tmp_path):
    """A refusal writes nothing."""
    target = tmp_path / "out.png"
    target.write_bytes(b"before")
    for status, expected in ((404, NotFound), (403, EngineRefused)):
        async with engine(answering(b"", status)) as (client, _):
            with pytest.raises(expected):
                await client.view("a.png", "", "output", target)
    assert target.read_bytes() == b"before"


async def test_a_target_that_cannot_be_written_is_our_fault(tmp_path):
    """A missing folder is not blamed on the engine."""
    async with engine(answering(b"x")) as (client, _):
        with pytest.raises(InternalFault):
            await client.view("a.png", "", "output", tmp_path / "absent" / "a.png")


async def test_a_given_session_is_used_and_left_open():
    """Who brings a session closes it."""
    async with aiohttp.ClientSession() as session, engine(answering({})) as (other, _):
        client = ComfyClient(other.base_url, client_id="me", session=session)
        assert await client.system_stats() == {}
        await client.close()
        assert not session.closed


async def test_a_closed_client_answers_no_more():
    """Nothing opens a session anew after close."""
    async with engine(answering({})) as (client, _):
        await client.system_stats()
        await client.close()
        with pytest.raises(EngineDied):
            await client.system_stats()
    assert repr(client).startswith("<ComfyClient http://127.0.0.1:")


async def test_a_wake_carries_the_token_and_what_has_changed():
    """To our own node; an engine without it has no such route."""
    async with engine(answering({"device": "cuda"})) as (client, requests):
        assert await client.wake({"A": None, "B": "1"}, "secret") == {"device": "cuda"}
        ((request, body),) = requests
        assert (request.method, request.path) == ("POST", "/comfyfn/wake")
        assert request.headers["Authorization"] == "Bearer secret"
        assert json.loads(body) == {"environment": {"A": None, "B": "1"}}
    async with engine(answering(b"", 404)) as (client, _):
        with pytest.raises(NotFound):
            await client.wake({}, "secret")


async def test_a_renewed_client_connects_anew():
    """What is under way keeps its connection until somebody hangs up."""
    async with engine(answering({})) as (client, requests):
        await client.system_stats()
        old = client._session
        client.renew()
        assert not old.closed
        await client.system_stats()
        assert requests[0][0].transport is not requests[1][0].transport
        await client.hang_up()
        assert old.closed
        assert await client.system_stats() == {}
