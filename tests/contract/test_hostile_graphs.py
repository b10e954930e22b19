"""A graph's own names are any text: node ids, titles, file names lead nowhere and to nobody."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from contract.disk import assert_nothing_new, files_below
from contract.graphs import (
    assert_same_pixels,
    data_uri,
    empty,
    encoded,
    fine,
    inverted,
    photo,
    pictures,
    plain,
    refused,
    save,
)
from live import walk
from PIL import ImageOps

if TYPE_CHECKING:
    from live import LiveServer

NODE_IDS = ["../../evil", "<outside>/evil", "..", "a/b\\c", "5:8", "n" * 1000, "\u4e2d", " "]
embedded_only = pytest.mark.parametrize("server", ["embedded"], indirect=True)


def socket_node(source: str) -> dict[str, Any]:
    """Give a node that sends its pictures through the socket."""
    return {"class_type": "SaveImageWebsocket", "inputs": {"images": [source, 0]}}


@pytest.mark.parametrize("node_id", NODE_IDS, ids=ascii)
def test_a_hostile_node_id_is_only_a_name(server: LiveServer, tmp_path: Path, node_id: str) -> None:
    """Pictures through the socket are right, of the node, and nothing is written elsewhere."""
    node_id = node_id.replace("<outside>", str(tmp_path))
    before = files_below(server.home)

    body = fine(server.prompt({"1": empty(20, 10, 2, 0x336699), node_id: socket_node("1")}))

    assert [output["node_id"] for output in body["outputs"]] == [node_id] * 2
    for picture, name in zip(pictures(body), body["filenames"], strict=True):
        assert (picture.size, picture.convert("RGB").getpixel((0, 0))) == ((20, 10), (51, 102, 153))
        assert Path(name).name == name
        assert len(name) < 200
    assert_nothing_new(before, server.home)
    assert list(tmp_path.iterdir()) == []


def test_inputs_of_ids_that_are_alike_do_not_meet(server: LiveServer) -> None:
    """`5:8` and `5_8` have one safe name: each node loads its own picture."""
    sent = {"5:8": photo(40, 30), "5_8": ImageOps.mirror(photo(40, 30)), "5/8": photo(20, 10)}
    graph: dict[str, Any] = {}
    for number, (node_id, picture) in enumerate(sent.items()):
        uri = data_uri(encoded(picture))
        graph[node_id] = {"class_type": "LoadImage", "inputs": {"image": uri}}
        graph[f"save{number}"] = save(node_id)

    body = fine(server.prompt(graph))

    for found, expected in zip(pictures(body), sent.values(), strict=True):
        assert_same_pixels(found, expected)


@embedded_only
def test_no_job_loads_the_files_of_another(server: LiveServer) -> None:
    """Inputs, outputs and previews of a job that runs, by their very names."""
    slow = {"image": ["1", 0], "seconds": 60.0, "steps": 600}
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": data_uri(encoded(photo()))}},
        "p": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "s": save("1"),
        "w": {"class_type": "TestSleep", "inputs": slow},
        "z": save("w"),
    }
    caller = threading.Thread(target=lambda: server.prompt(graph, id="victim"))
    caller.start()
    try:
        names = _names_of_the_victim(server)
        uid = names[0].split("/")[1]
        for name in (*names, f"comfyfn-jobs/{uid}", "comfyfn-jobs", "comfyfn-job"):
            body = refused(server.prompt(inverted(name)), 400, "input_failed")
            assert uid not in str(body).replace(name, "")
            assert not body["hint"] or "did you mean" not in body["hint"]
    finally:
        server.post("/interrupt", {"id": "victim"})
        caller.join()


def _names_of_the_victim(server: LiveServer) -> list[str]:
    """Wait for the three files of the job and give the names that a node would load them by."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        inputs = walk(server.input / "comfyfn-jobs", ".png")
        outputs = walk(server.output / "comfyfn-jobs", ".png")
        previews = [p for p in walk(server.work, ".png") if "temp" in p.parent.name]
        if inputs and outputs and previews:
            first = inputs[0].relative_to(server.input).as_posix()
            second = outputs[0].relative_to(server.output).as_posix()
            return [first, f"{first} [input]", f"{second} [output]", f"{previews[0].name} [temp]"]
        time.sleep(0.01)
    raise AssertionError(f"no files: {files_below(server.home)}")


def sleeping(server: LiveServer, job_id: str) -> bool:
    """Tell whether a job is in its node `w`: those before it have told their outputs."""
    told = server.get(f"/jobs/{job_id}").json()
    return (told.get("progress") or {}).get("node_id") == "w"


@embedded_only
@pytest.mark.parametrize("end", ["fails", "is cancelled"])
def test_previews_go_however_a_job_ends(server: LiveServer, end: str) -> None:
    """The engine's temp folder would fill the disk one job at a time."""
    raises = {"class_type": "TestRaise", "inputs": {"image": ["1", 0], "message": "x"}}
    sleeps = {"image": ["1", 0], "seconds": 60.0, "steps": 600}
    graph = {
        "1": empty(16, 16, 3, 0x123456 + len(end)),
        "p": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "w": raises if end == "fails" else {"class_type": "TestSleep", "inputs": sleeps},
        "z": save("w"),
    }
    before = files_below(server.home)
    answers: list[int] = []
    name = f"previews-{len(end)}"
    caller = threading.Thread(
        target=lambda: answers.append(server.prompt(graph, id=name).status_code)
    )
    caller.start()
    if end == "is cancelled":
        until = time.monotonic() + 20
        while not sleeping(server, name) and time.monotonic() < until:
            time.sleep(0.01)
        assert len(files_below(server.work) - before) >= 3
        server.post("/interrupt", {"id": name})
    caller.join()

    assert answers == [500 if end == "fails" else 499]
    assert "event: output" in server.get(f"/jobs/{name}/events").text
    assert_nothing_new(before, server.home)


@pytest.mark.parametrize("count", [5_000, 20_000])
def test_a_large_bad_graph_is_refused_at_once_and_stalls_nobody(
    strict_server: LiveServer, count: int
) -> None:
    """Other callers are served meanwhile, and the answer is short."""
    graph = {str(n): {"class_type": f"Nope{n}", "inputs": {"a": ["0", 0]}} for n in range(count)}
    slowest, done = [0.0], threading.Event()

    def probe() -> None:
        while not done.is_set():
            begun = time.monotonic()
            assert strict_server.get("/health/live").status_code == 200
            slowest[0] = max(slowest[0], time.monotonic() - begun)

    prober = threading.Thread(target=probe)
    prober.start()
    try:
        begun = time.monotonic()
        answer = strict_server.prompt({**graph, **plain()})
        took = time.monotonic() - begun
    finally:
        done.set()
        prober.join()

    refused(answer, 400, "invalid_workflow")
    assert len(answer.content) < 100_000
    assert took < 5
    assert slowest[0] < 1
