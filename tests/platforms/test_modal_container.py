"""Modal's own container entrypoint runs the app, and its real client calls it, by our double."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from behaviour.graphs import picture, slow
from contract.file_server import file_server
from modal_proto import api_pb2
from PIL import Image
from platforms.modal_world import APP, World, settings_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


KEYS = {"Modal-Key": "wk-key", "Modal-Secret": "ws-secret"}
FAILURE = api_pb2.GenericResult.GENERIC_STATUS_FAILURE
TERMINATED = api_pb2.GenericResult.GENERIC_STATUS_TERMINATED


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give one deployment with one container, restored from its snapshot."""
    home = tmp_path_factory.mktemp("modal")
    with World(home) as running:
        running.deploy(settings_in(home))
        container = running.container(snapshot=True, held=True).frozen()
        running.seen = {
            "engines": container.engines(),
            "asked": [name for name, _ in running.modal.requests],
        }
        container.restore()
        container.ready()
        yield running


@pytest.fixture(scope="module")
def http(world: World) -> Iterator[httpx.Client]:
    """Give a client of the web address, with the keys of its proxy."""
    url = world.client("web_url")["result"]
    with httpx.Client(base_url=url, headers=KEYS, timeout=30, trust_env=False) as client:
        yield client


def image_of(answer: dict[str, Any]) -> Image.Image:
    """Read the only picture of an answer."""
    (data,) = answer["images"]
    return Image.open(io.BytesIO(base64.b64decode(data)))


def job(http: httpx.Client, job_id: str) -> dict[str, Any]:
    """Give a job's record."""
    return dict(http.get(f"/jobs/{job_id}").json())


def until(what: Any, limit_s: float = 20) -> None:
    """Wait until a call gives something true; it may ask the double, which `wait` must not."""
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def begin(world: World, payload: dict[str, Any]) -> Any:
    """Spawn a call, and wait until the container has it."""
    call_id = world.client("spawn", payload)["result"]
    call = world.modal.calls[call_id]
    world.modal.wait(lambda: call.deliveries)
    return call


def test_the_engine_boots_before_the_snapshot(world: World, http: httpx.Client) -> None:
    """Before: the engine runs, and no Volume is read anew. After: both, and then calls."""
    assert len(world.seen["engines"]) == 1
    assert world.seen["asked"][-1] == "ContainerCheckpoint"
    asked = [name for name, _ in world.modal.requests]
    order = ["ContainerHello", "ContainerCheckpoint", "VolumeReload", "VolumeCommit"]
    places = [asked.index(name) for name in [*order, "FunctionGetInputs"]]
    assert places == sorted(places)
    assert world.containers[0].engines() == world.seen["engines"]
    told = http.get("/health").json()["boot"]["snapshot"]
    assert (told["mode"], told["restored"], told["failures"]) == ("cpu", True, 0)


def test_a_call_is_answered(world: World) -> None:
    """`.remote` gives what POST /prompt would."""
    answer = world.client("remote", {"prompt": picture(24, 16), "id": "plain"})["result"]
    assert image_of(answer).size == (24, 16)
    assert (answer["id"], answer["stats"]["adapter"]) == ("plain", "modal")


def test_a_failed_job_is_a_dict_with_the_envelope(world: World) -> None:
    """The caller reads the same keys as over HTTP."""
    answer = world.client("remote", {"prompt": {"1": {"class_type": "Nope", "inputs": {}}}})
    told = answer["result"]
    assert (told["code"], told["statusCode"], told["node_id"]) == ("invalid_workflow", 400, "1")


@pytest.mark.parametrize("given", [None, "no JSON", 5, [], {}])
def test_a_call_with_anything_is_answered(world: World, given: Any) -> None:
    """What is no payload is told so."""
    told = world.client("remote", given)["result"]
    assert (told["statusCode"], told["blame"]) == (400, "caller")


def test_a_stream_tells_outputs_as_they_come(world: World) -> None:
    """Events in their order, then the answer."""
    graph = {**slow("embedded", 0.4), "5": picture()["1"]}
    graph["6"] = {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "a"}}
    items = world.client("stream", {"prompt": graph})["result"]
    kinds = [item["type"] for item in items]
    assert kinds[-1] == "answer"
    assert {"phase", "progress", "output"} <= set(kinds)
    assert kinds.index("output") < len(kinds) - 1 - kinds[::-1].index("progress")
    assert len(items[-1]["data"]["images"]) == 2


def test_a_failing_stream_ends_with_the_error(world: World) -> None:
    """No exception of ours crosses the wire."""
    items = world.client("stream", {"prompt": {"1": 5}})["result"]
    assert [item["type"] for item in items] == ["error"]
    assert items[0]["data"]["code"] == "invalid_workflow"


def test_a_large_answer_goes_through_blobs(world: World) -> None:
    """Modal takes results of any size; the SDK stores what is over 2 MiB."""
    inputs = {"name": "clip.mp4", "size_bytes": 3 << 20, "seed": 4}
    graph = {"1": {"class_type": "TestNoiseFile", "inputs": inputs}}
    before = len(world.modal.asked("BlobCreate"))
    answer = world.client("remote", {"prompt": graph})["result"]
    assert len(base64.b64decode(answer["images"][0])) == 3 << 20
    assert len(world.modal.asked("BlobCreate")) > before


def test_a_spawned_call_is_asked_for_later(world: World) -> None:
    """`.spawn`, then `.get` as often as one likes."""
    call_id = world.client("spawn", {"prompt": slow("embedded", 0.5)})["result"]
    assert world.client("get", call_id, timeout_s=0)["result"] is None
    assert image_of(world.client("get", call_id)["result"]).size == (16, 16)
    assert image_of(world.client("get", call_id)["result"]).size == (16, 16)


def test_calls_run_side_by_side(world: World) -> None:
    """A container takes the next call while one runs; `/health` is answered meanwhile."""
    calls = [begin(world, {"prompt": slow("embedded", 0.6)}) for _ in range(3)]
    assert all(call.deliveries == 1 for call in calls)
    world.modal.wait(lambda: all(call.output for call in calls))


def test_cancelling_a_call_ends_exactly_that_job(world: World, http: httpx.Client) -> None:
    """Another one, in the same container, goes on."""
    first = begin(world, {"prompt": slow("embedded", 30), "id": "cancelled"})
    second = begin(world, {"prompt": slow("embedded", 0.2), "id": "goes-on"})
    until(lambda: job(http, "cancelled").get("status") == "running")
    world.client("cancel", first.id)
    world.modal.wait(lambda: first.output and second.output)
    assert first.output.result.status == TERMINATED
    assert job(http, "cancelled")["status"] == "cancelled"
    assert job(http, "goes-on")["status"] == "succeeded"


def test_an_input_that_is_delivered_again_is_not_run_again(
    world: World, http: httpx.Client
) -> None:
    """Modal does so when it heard nothing of the first; the stored result is the answer."""
    call = begin(world, {"prompt": picture(), "id": "twice"})
    world.modal.wait(lambda: call.output)
    first = call.output
    world.modal.redeliver(call)
    world.modal.wait(lambda: call.output)
    assert call.output is not first
    again = world.client("get", call.id)["result"]
    assert image_of(again).size == (16, 16)
    same = [one for one in http.get("/jobs?limit=200").json()["jobs"] if one["id"] == "twice"]
    assert len(same) == 1


def test_the_same_key_gives_the_same_run(world: World) -> None:
    """A caller's own key holds over calls; with another payload it is refused."""
    payload = {"prompt": picture()}
    first = world.client("remote", payload, options={"key": "k1"})["result"]
    second = world.client("remote", payload, options={"key": "k1"})["result"]
    assert first["id"] == second["id"]
    other = world.client("remote", {"prompt": picture()}, options={"key": "k1"})["result"]
    assert other["statusCode"] == 409


# -- the web address ------------------------------------------------------------------------------


def test_the_web_address_asks_for_keys(world: World) -> None:
    """Modal's proxy does, since the app says so."""
    assert httpx.get(f"{world.modal.web_url}/health", trust_env=False).status_code == 401


def test_the_whole_api_is_served(http: httpx.Client) -> None:
    """Probes, the graph's answer in both forms, records, documents."""
    assert http.get("/ready").status_code == 200
    answer = http.post("/prompt", json={"prompt": picture(20, 12), "id": "web"})
    assert (answer.status_code, answer.headers["X-Comfyfn-Id"]) == (200, "web")
    assert image_of(answer.json()).size == (20, 12)
    raw = http.post("/prompt", json={"prompt": picture()}, headers={"Accept": "image/png"})
    assert raw.content.startswith(b"\x89PNG")
    assert job(http, "web")["status"] == "succeeded"
    assert "openapi" in http.get("/openapi.json").json()
    assert http.post("/prompt", json={"prompt": 5}).status_code == 400
    assert http.get("/nowhere").status_code == 404


def test_a_client_that_goes_away_cancels_its_job(world: World, http: httpx.Client) -> None:
    """As it is everywhere."""
    url, body = f"{world.modal.web_url}/prompt", {"prompt": slow("embedded", 30), "id": "left"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json=body, headers=KEYS, timeout=1, trust_env=False)
    until(lambda: job(http, "left")["status"] == "cancelled")


def test_a_long_job_is_a_call_of_its_own(world: World, http: httpx.Client) -> None:
    """202 and a Location at once, which answers as jobs do, and cannot be lost with a request."""
    body = {"prompt": slow("embedded", 1), "id": "long"}
    taken = http.post("/prompt", json=body, headers={"Prefer": "respond-async"})
    assert (taken.status_code, taken.headers["Preference-Applied"]) == (202, "respond-async")
    place = taken.headers["Location"]
    assert taken.json() == {"id": "long", "call_id": place.rpartition("/")[2], "status": "ok"}
    assert http.get(place).json()["status"] == "running"
    waiting = http.get(f"{place}/result")
    assert (waiting.status_code, waiting.headers["Retry-After"]) == (202, "1")
    world.modal.wait(lambda: world.modal.calls[taken.json()["call_id"]].output)
    told = http.get(place).json()
    assert (told["status"], len(told["outputs"])) == ("succeeded", 1)
    assert image_of(http.get(f"{place}/result").json()).size == (16, 16)
    assert http.post(f"{place}/cancel").json()["cancelled"] is False


def test_a_long_job_is_cancelled_by_its_location(world: World, http: httpx.Client) -> None:
    """The container that has it may be another one: Modal tells it."""
    body = {"prompt": slow("embedded", 30), "id": "stopped"}
    taken = http.post("/prompt", json=body, headers={"Prefer": "respond-async"})
    place, call = taken.headers["Location"], world.modal.calls[taken.json()["call_id"]]
    world.modal.wait(lambda: call.deliveries)
    until(lambda: job(http, "stopped").get("status") == "running")
    assert http.post(f"{place}/cancel").json()["cancelled"] is True
    world.modal.wait(lambda: call.output)
    assert http.get(place).json()["status"] == "cancelled"
    assert http.get(f"{place}/result").status_code == 499
    assert job(http, "stopped")["status"] == "cancelled"


def test_a_short_wait_for_a_long_job(http: httpx.Client) -> None:
    """`Prefer: wait` gives the answer if it is there in time."""
    body = {"prompt": picture(), "id": "soon"}
    headers = {"Prefer": "respond-async, wait=10"}
    answer = http.post("/prompt", json=body, headers=headers)
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "wait=10")
    assert image_of(answer.json()).size == (16, 16)


def test_calls_that_are_not_there_are_told(http: httpx.Client) -> None:
    """In the one form of errors; what no worker would take is refused before it is a call."""
    answer = http.get("/jobs/fc-nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    bad = http.post("/prompt", json={"prompt": {}, "id": 5}, headers={"Prefer": "respond-async"})
    assert (bad.status_code, bad.json()["code"]) == (400, "invalid_payload")


# -- starts and ends ------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[World]:
    """Give a deployment of one's own."""
    with World(tmp_path) as running:
        yield running


def test_an_idle_container_ends_in_good_order(alone: World) -> None:
    """The exit hook ends the engine, and Modal commits the Volumes after it."""
    alone.deploy(settings_in(alone.home), COMFYFN_SNAPSHOT="off")
    container = alone.container().ready()
    (engine,) = container.engines()
    assert container.kill_switch() == 0
    assert not os.path.exists(f"/proc/{engine}")
    assert alone.modal.requests[-1][0] == "VolumeCommit"
    assert alone.modal.asked("TaskResult") == []


def test_a_container_that_is_taken_away_leaves_its_job_to_the_next(alone: World) -> None:
    """The input is delivered elsewhere, and is no job that somebody cancelled."""
    alone.deploy(settings_in(alone.home))
    first = alone.container("first", snapshot=True).ready()
    call = begin(alone, {"prompt": slow("embedded", 3), "id": "moved"})
    engines = first.engines()
    alone.modal.wait(lambda: "got prompt job=moved" in first.text)
    assert first.interrupt() == 0
    assert not any(os.path.exists(f"/proc/{pid}") for pid in engines)
    assert call.output.result.status == TERMINATED
    alone.container("second", snapshot=True)
    alone.modal.redeliver(call)
    answer = alone.client("get", call.id)["result"]
    assert image_of(answer).size == (16, 16)


def test_a_boot_that_fails_is_reported(alone: World) -> None:
    """Modal is told why; there is no ComfyUI here, and none other stands in for it."""
    alone.deploy({**settings_in(alone.home), "ENGINE": "comfyui", "COMFY_HOME": "/nowhere"})
    container = alone.container(snapshot=True)
    assert container.wait() == 0
    (told,) = alone.modal.asked("TaskResult")
    assert told.result.status == FAILURE
    assert "BootFailed" in told.result.exception
    assert "/nowhere" in told.result.exception
    assert alone.modal.asked("FunctionGetInputs") == []


def test_two_bad_restores_lead_to_plain_boots(alone: World) -> None:
    """Each mends itself; the third container has no engine in its snapshot, and works."""
    alone.deploy(settings_in(alone.home))
    for number in (1, 2, 3):
        container = alone.container(f"c{number}", snapshot=True, held=True).frozen()
        engines = container.engines()
        assert len(engines) == (1 if number < 3 else 0)
        for pid in engines:
            os.kill(pid, signal.SIGKILL)
        container.restore()
        container.ready()
        answer = alone.client("remote", {"prompt": picture()})["result"]
        assert image_of(answer).size == (16, 16)
        assert container.kill_switch() == 0
    ledger = json.loads((alone.home / "vol" / "state" / "snapshots.json").read_text())
    assert ledger["failures"] == 2


def test_a_graph_is_run_from_the_shell(alone: World, tmp_path: Path) -> None:
    """`modal run adapters/modal_app.py --graph FILE` saves the outputs."""
    (tmp_path / "graph.json").write_text(json.dumps(picture(24, 16)))
    alone.start_when_called()
    said = alone.cli(
        *("run", APP, "--graph", str(tmp_path / "graph.json"), "--out", str(tmp_path / "out")),
        **alone.knobs(settings_in(alone.home)),
    )
    assert said.returncode == 0, said.stdout + said.stderr
    (saved,) = (tmp_path / "out").iterdir()
    assert f"saved {saved}" in said.stdout.replace("\n", "").replace("saved", "\nsaved")
    with Image.open(saved) as found:
        assert found.size == (24, 16)
    bad = {"prompt": {"1": {"class_type": "Nope", "inputs": {}}}}
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    said = alone.cli(
        "run", APP, "--graph", str(tmp_path / "bad.json"), **alone.knobs(settings_in(alone.home))
    )
    assert said.returncode == 1
    assert "invalid_workflow" in said.stdout


def test_the_volume_is_filled_from_the_shell(alone: World, tmp_path: Path) -> None:
    """`modal run adapters/modal_app.py --models` brings the manifest's models, and commits."""
    with file_server() as files:
        files.put("/a.bin", b"a" * 100_000, "x/y")
        manifest = tmp_path / "m.yaml"
        manifest.write_text(
            "models:\n  before_start:\n"
            f"    - {{url: {files.url('/a.bin')}, folder: loras}}\n"
            f"    - {{url: {files.url('/b.bin')}, folder: loras}}\n"
        )
        alone.start_when_called()
        settings = {**settings_in(alone.home), "MANIFEST": str(manifest)}
        knobs = alone.knobs(settings, COMFYFN_MANIFEST=str(manifest))
        said = alone.cli("run", APP, "--models", **knobs)
        assert said.returncode == 1, said.stderr
        assert "a.bin: fetched" in said.stdout
        assert "b.bin: failed" in said.stdout
        assert (alone.home / "vol/models/loras/a.bin").stat().st_size == 100_000
        assert alone.modal.asked("VolumeCommit")
        files.put("/b.bin", b"b", "x/y")
        said = alone.cli("run", APP, "--models", **knobs)
        assert said.returncode == 0, said.stdout + said.stderr
        assert "a.bin: there" in said.stdout
