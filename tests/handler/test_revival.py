"""A worker that was frozen, and perhaps copied, goes on."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from live import REPO, free_port
from posting import letter
from receiver import receiving
from running import Gate
from worker import GRAPH, until, worker

from handler.engine.usage import Device
from handler.errors import BootFailed, EngineRefused
from handler.graph.object_info import ObjectInfo
from handler.revival import Seen, reseed, tiny_graph
from handler.settings import Settings
from handler.submission import Submission


class Frozen:
    """A worker in a process of its own, with its engine; stopped and continued by signals."""

    def __init__(self, home: Path) -> None:
        self.engine_port = free_port()
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": f"{REPO}:{REPO / 'tests'}",
            "ENGINE": "embedded",
            "COMFYFN_TEST_FAULTS": "true",
            "COMFYUI_PORT_HOST": str(self.engine_port),
            "STATE_DIR": str(home / "state"),
            "WORK_DIR": str(home / "work"),
            **{k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")},
        }
        self.process = subprocess.Popen(
            [sys.executable, str(REPO / "tests" / "revive_process.py")],
            cwd=REPO,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert json.loads(self.process.stdout.readline()) == {"ready": True}
        self.engine = self.ask("engine")["pid"]

    def ask(self, command: str) -> dict:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def freeze(self, number: signal.Signals = signal.SIGSTOP) -> None:
        for pid in (self.process.pid, self.engine):
            os.kill(pid, number)

    def thaw(self) -> None:
        self.freeze(signal.SIGCONT)

    def close(self) -> None:
        self.thaw()
        self.process.communicate(timeout=30)


@pytest.fixture
def frozen(tmp_path):
    """Give a worker, frozen after its first job."""
    one = Frozen(tmp_path)
    try:
        assert one.ask("run")["images"] == 1
        one.freeze()
        yield one
    finally:
        one.close()


def test_a_frozen_worker_goes_on(frozen):
    """Long enough that every heartbeat is overdue; reviving costs next to nothing."""
    time.sleep(6)  # the time it is frozen for is what this is about
    frozen.thaw()

    assert frozen.ask("revive")["seconds"] < 1
    assert frozen.ask("revive")["seconds"] < 1
    ran = frozen.ask("run")
    assert ran["images"] == 1
    assert ran["seconds"] < 2
    assert frozen.ask("engine")["pid"] == frozen.engine


def test_a_worker_whose_connections_were_cut_meanwhile_goes_on(frozen):
    """The engine has hung up on it; it learns that by the revival."""
    os.kill(frozen.engine, signal.SIGCONT)
    url = f"http://127.0.0.1:{frozen.engine_port}/_test/drop_sockets"
    httpx.post(url, json={}, trust_env=False).raise_for_status()
    frozen.thaw()

    assert frozen.ask("revive")["seconds"] < 1
    assert frozen.ask("run")["images"] == 1
    assert frozen.ask("engine")["pid"] == frozen.engine


def test_a_worker_whose_engine_died_meanwhile_has_another(frozen):
    """The revival waits until that one is ready."""
    os.kill(frozen.engine, signal.SIGKILL)
    os.kill(frozen.process.pid, signal.SIGCONT)

    frozen.ask("revive")
    assert frozen.ask("run")["images"] == 1
    assert frozen.ask("engine")["pid"] != frozen.engine
    frozen.engine = frozen.ask("engine")["pid"]


async def test_copies_of_a_worker_are_told_apart(tmp_path):
    """Their records must not be taken for those of one; each finds its own."""
    template = tmp_path / "template"
    async with worker(template) as (handler, _):
        await handler.handle({"prompt": GRAPH, "id": "before"})
        await handler._ledger.flush()
    for name in ("a", "b"):
        shutil.copytree(template / "state", tmp_path / name / "state")

    async with worker(tmp_path / "a") as (a, _), worker(tmp_path / "b") as (b, _):
        assert a._ledger.instance == b._ledger.instance
        for copy in (a, b):
            await copy.revive()
        names = {a._ledger.instance, b._ledger.instance}
        assert len(names) == 2

        for copy in (a, b):
            async with await copy.handle({"prompt": GRAPH, "id": "after"}):
                pass
            await copy._ledger.flush()
        told = [await copy._ledger.find("after") for copy in (a, b)]
        assert [record.instance for record in told] == [a._ledger.instance, b._ledger.instance]
        assert all([await copy._ledger.find("before") for copy in (a, b)])
        for home, copy in (("a", a), ("b", b)):
            signs = tmp_path / home / "state" / "jobs" / "instances"
            await until(lambda at=signs / copy._ledger.instance: at.exists())


async def test_the_name_that_callers_see_is_read_again(tmp_path):
    """On another host, or as the environment says now."""
    async with worker(tmp_path) as (handler, _):
        await handler.revive(replace(Settings(), instance_id="task-2", state_dir=tmp_path))
        async with await handler.handle({"prompt": GRAPH}) as answer:
            assert (await answer.json())["stats"]["instance"] == "task-2"
        assert handler._ledger.instance.startswith("task-2-")


async def test_a_worker_with_a_job_in_hand_keeps_its_name_for_it(tmp_path):
    """The job goes on, and its record stays that of a living worker."""
    gate = Gate()
    async with worker(tmp_path, script=gate) as (handler, engine):
        entry = await handler.enter({"prompt": GRAPH, "id": "a"}, Submission(key="k"))
        await until(lambda: gate.begun)
        before = handler._ledger.instance

        await handler.revive()

        assert handler._ledger.instance == before
        assert engine.freezes == ["revived"]
        gate.open.set()
        async with await handler.answer(entry) as answer:
            assert len(answer.outputs) == 1
        await handler.revive()
        assert handler._ledger.instance != before


async def test_a_job_that_is_being_entered_meanwhile_has_the_name_of_a_living_worker(tmp_path):
    """Else others would take it for that of a worker that is gone, and fail it while it runs."""
    for place in map(str, range(8)):
        gate = Gate()
        async with worker(tmp_path / place, script=gate) as (handler, _):
            enter = handler.enter({"prompt": GRAPH, "id": "a"}, Submission(key="k"))
            entry, _ = await asyncio.gather(enter, handler.revive())
            assert (await handler._ledger.find("a")).instance == handler._ledger.instance
            gate.open.set()
            async with await handler.answer(entry):
                pass


async def test_the_webhook_of_a_job_that_is_being_entered_meanwhile_is_no_failure(tmp_path):
    """Its promise must not be left to who takes it for that of a worker that is gone."""
    settings = Settings(url_allow_hosts="127.0.0.1")
    async with receiving() as receiver:
        for turn in range(8):
            async with worker(tmp_path / str(turn), settings) as (handler, _):

                async def revive(handler=handler):
                    while not handler._ledger._begun:  # it is recorded, and promised next
                        await asyncio.sleep(0)
                    await handler.revive()

                payload = {"prompt": GRAPH, "webhook_v2": receiver.url("/hook")}
                await asyncio.gather(handler.enter(payload, Submission()), revive())
                await until(lambda turn=turn: len(receiver.posts) > turn)
    told = [json.loads(post.body)["type"] for post in receiver.posts]
    assert told == ["prompt.complete"] * 8


async def test_nothing_that_was_open_is_used_again(tmp_path):
    """Sources, uploads and state connect anew; new credentials are taken."""
    async with worker(tmp_path) as (handler, engine):
        parts = handler._parts
        source = parts.media._pick("http://127.0.0.1/x")
        uploads = parts.providers()

        await handler.revival.pause()
        assert engine.freezes == ["paused"]
        settings = replace(Settings(), hf_token="new-token", state_dir=tmp_path)
        await handler.revive(settings)

        assert parts.media._pick("http://127.0.0.1/x") is not source
        assert parts.providers() is not uploads
        assert parts.downloader._pick._settings.hf_token == "new-token"
        assert parts.media._pick._settings.hf_over_http is True


async def test_a_paused_worker_is_still(tmp_path):
    """No file of its state is open, and none is written, until it is revived."""
    for place in map(str, range(8)):  # the first signs are being given just then
        async with worker(tmp_path / place) as (handler, _):
            await handler._ledger.opened()
            await handler.revival.pause()
            assert not {task.get_name() for task in asyncio.all_tasks()} & {"tend-state", "records"}
            held = [fd.resolve() for fd in Path("/proc/self/fd").iterdir()]
            assert [path for path in held if path.is_relative_to(tmp_path / place / "state")] == []
            await handler.revive()
            assert "tend-state" in {task.get_name() for task in asyncio.all_tasks()}


async def test_webhooks_of_before_are_still_told(tmp_path):
    """The outbox is opened anew, in a folder of its own; what was in the other goes along."""
    settings = Settings(url_allow_hosts="127.0.0.1")
    async with worker(tmp_path, settings) as (handler, _):
        webhooks = handler._endings._webhooks
        outbox = await webhooks._opened()
        await outbox.post(letter(f"http://127.0.0.1:{free_port()}/hook"))
        before = outbox._journal._own
        await handler.revive()
        assert webhooks._outbox is not outbox
        assert webhooks._outbox._journal._own != before
        assert await webhooks.letters() == {"pending": 1, "dead": 0}


async def test_an_engine_that_cannot_be_revived_is_told(tmp_path):
    """Whoever revives must not take jobs then."""
    async with worker(tmp_path) as (handler, engine):
        engine.revive_error = BootFailed("no GPU any more")
        with pytest.raises(BootFailed, match="no GPU any more"):
            await handler.revive()


async def test_a_worker_that_never_started_is_revived_all_the_same(tmp_path):
    """The platform may call it at any time."""
    async with worker(tmp_path, start=False) as (handler, _):
        await handler.revive()


def test_randomness_is_not_that_of_before():
    """A snapshot that is restored twice would have it twice."""
    drawn = []
    for _ in range(2):
        random.seed(7)
        np.random.seed(7)
        reseed()
        drawn.append((random.random(), float(np.random.random())))
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


async def test_the_self_test_runs_a_graph_and_compares(tmp_path):
    """An engine that has lost nodes, or its GPU, is not the one that was frozen."""
    nodes = {
        **tiny_nodes("EmptyImage", "ImageBlur"),
        "PreviewImage": {"input": {"required": {"images": ["IMAGE"]}}, "output_node": True},
    }
    async with worker(tmp_path, nodes=nodes) as (handler, engine):
        before = await handler.revival.seen()
        assert before == Seen(3, None)
        await handler.revival.self_test(before, gpu=False)
        ran = [node["class_type"] for node in engine.prompts[0].graph.values()]
        assert ran == ["EmptyImage", "ImageBlur", "PreviewImage"]

        with pytest.raises(EngineRefused, match="3 nodes are known, before it were 4"):
            await handler.revival.self_test(replace(before, classes=4), gpu=False)
        with pytest.raises(EngineRefused, match="no GPU is seen; before it was hidden"):
            await handler.revival.self_test(before, gpu=True)
        with pytest.raises(EngineRefused, match="no GPU is seen; before it was H100"):
            await handler.revival.self_test(replace(before, device="H100"), gpu=False)
        engine.device = Device("A100", 40 << 30)
        await handler.revival.self_test(replace(before, device="H100"), gpu=True)  # a warning


def tiny_nodes(*names):
    inputs = {"required": {"width": ["INT", {}], "image": ["IMAGE"]}}
    blur = {"required": {"image": ["IMAGE"], "blur_radius": ["INT", {}], "sigma": ["FLOAT", {}]}}
    size = {name: ["INT", {}] for name in ("width", "height", "batch_size", "color")}
    known = {"EmptyImage": {"required": size}, "ImageBlur": blur}
    return {n: {"input": known.get(n, inputs), "output": ["IMAGE"]} for n in names}


def test_an_engine_without_the_nodes_is_not_asked_to_compute():
    """Whatever nodes it has, it answers."""
    assert tiny_graph(ObjectInfo({})) is None
    few = tiny_graph(ObjectInfo({"EmptyImage": {}, "PreviewImage": {}}))
    assert few["prompt"]["3"]["inputs"]["images"] == ["1", 0]
    assert few != tiny_graph(ObjectInfo({"EmptyImage": {}, "PreviewImage": {}}))


async def test_a_warmup_that_was_left_is_run_when_it_is_told_to(tmp_path):
    """Once; an engine that boots again later runs it as ever."""
    settings = Settings(warmup_json=json.dumps(GRAPH))
    async with worker(tmp_path, settings, start=False) as (handler, engine):
        await handler.start(warm=False)
        assert engine.prompts == []
        engine.woken = {"device": "cuda"}
        assert await handler.revival.wake() == {"device": "cuda"}
        await handler.revival.warm_up()
        await handler.revival.warm_up()
        assert len(engine.prompts) == 1
        handler.revival.note({"mode": "cpu"})
        assert handler.health().boot["snapshot"] == {"mode": "cpu"}


async def test_two_revivals_at_once_do_no_harm(tmp_path):
    """A clock that jumps is seen by whoever looks."""
    async with worker(tmp_path) as (handler, _):
        await asyncio.gather(handler.revive(), handler.revive())
        async with await handler.handle({"prompt": GRAPH}) as answer:
            assert len(answer.outputs) == 1
