"""A captured job: written without secrets, read in every form."""

from __future__ import annotations

import base64
import json

import pytest
from worker import GRAPH as SAVING
from worker import worker

from handler.engine.memory import PIXEL
from handler.errors import ExecutionFailed, InvalidPayload
from handler.graph.rewrite import RUN_INPUT
from handler.records import JOBS_FOLDER
from local_server.remote.capture import read_captured, without_secrets, write_captured
from local_server.remote.result import Saved

GRAPH = {"1": {"class_type": "EmptyImage", "inputs": {"seed": 7}}}
PAYLOAD = {"prompt": GRAPH}
OUTPUT = {"node_id": "2", "filename": "a.png", "sha256": "0" * 64, "text": None}


def written(tmp_path, told):
    """Write a file and read it as a captured job."""
    path = tmp_path / "job.json"
    path.write_text(json.dumps(told))
    return read_captured(path)


@pytest.mark.parametrize(
    "told",
    [
        {"comfyfn": 1, "payload": PAYLOAD},
        PAYLOAD,
        GRAPH,
        {"id": "runpod-1", "input": PAYLOAD, "webhook": "https://x"},
        {"id": "salad-1", "input": PAYLOAD, "metadata": {}, "status": "succeeded"},
        {"input": {"workflow": GRAPH, "images": []}},
        {"input": json.dumps({"workflow": GRAPH})},
        {"id": "job", "prompt": GRAPH, "images": [], "outputs": [], "stats": {"a": 1}},
        [PAYLOAD],
    ],
)
def test_every_form_of_a_job_is_read(tmp_path, told):
    """Without its id and without its answer: it becomes a job of its own."""
    assert written(tmp_path, told).payload == PAYLOAD


@pytest.mark.parametrize("prefix", ["x", "sub/x", "sub/", "job 1_x", "%date:yyyy/MM%_x"])
async def test_an_answer_is_asked_anew_under_the_names_that_were_asked(tmp_path, prefix):
    """Without the folder of its run, and without its id, which names are clean of then."""
    graph = {**SAVING, "2": {**SAVING["2"], "inputs": {"images": ["1", 0]}}}
    graph["2"]["inputs"]["filename_prefix"] = prefix
    async with (
        worker(tmp_path / "worker") as (running, _),
        await running.handle({"prompt": graph, "id": "job 1"}) as answer,
    ):
        told = await answer.json()
    assert told["prompt"] != graph
    assert written(tmp_path, told).payload["prompt"] == graph


def test_of_an_answer_nothing_is_guessed(tmp_path):
    """Where the id took the prefix's place that one is lost, and what is not a run's stays."""
    folder = f"{JOBS_FOLDER}/{'a' * 32}/"
    told = {
        "id": "j",
        "prompt": {
            "1": {"class_type": "A", "inputs": {"filename_prefix": f"{folder}j"}},
            "2": {"class_type": "A", "inputs": {"filename_prefix": "j_x"}},
            "3": {"class_type": "A", "inputs": {RUN_INPUT: folder.rstrip("/"), "seed": 1}},
            "4": {"class_type": "A", "inputs": {"filename_prefix": ["1", 0]}},
        },
    }
    inputs = [node["inputs"] for node in written(tmp_path, told).payload["prompt"].values()]
    prefixes = [{"filename_prefix": prefix} for prefix in ("j", "j_x", ["1", 0])]
    assert inputs == [*prefixes[:2], {"seed": 1}, prefixes[2]]


def test_a_call_of_an_endpoint_stays_one(tmp_path):
    """As a payload, and as a platform's job."""
    call = {"workflow": "txt2img", "input": {"prompt": "a"}}
    assert written(tmp_path, call).payload == call
    assert written(tmp_path, {"id": "x", "input": call}).payload == call


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"id": "a", "status": "succeeded", "outputs": []}, "holds no job"),
        ({}, "holds no job"),
        ("text", "holds no job"),
        (
            {"prompt": {"1": {"inputs": {"image": "data:image/png;base64,... (123 characters)"}}}},
            "prompt.1.inputs.image was left out",
        ),
        (
            {"prompt": {"1": {"inputs": {"image": "https://h/a/very/long/o..."}}}},
            "prompt.1.inputs.image was left out",
        ),
        (
            {"prompt": {"1": {"inputs": {"image": ["https://h/a.png?sig=..."]}}}},
            "prompt.1.inputs.image.0 was left out",
        ),
    ],
)
def test_what_is_no_job_or_not_whole_is_refused(tmp_path, told, said):
    """An answer repeats no media and no secrets."""
    with pytest.raises(InvalidPayload, match=said):
        written(tmp_path, told)


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    """On one line."""
    with pytest.raises(InvalidPayload, match="no such file"):
        read_captured(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"\x00")
    with pytest.raises(InvalidPayload, match="is no captured job"):
        read_captured(tmp_path / "bad")


def test_nobody_is_told_of_a_second_run(tmp_path):
    """Neither webhooks nor stores: they had the first one."""
    told = {**PAYLOAD, "webhook_v2": "https://x", "s3": {"bucket": "b"}, "convert_output": None}
    captured = written(tmp_path, told)
    assert captured.payload == {**PAYLOAD, "convert_output": None}
    assert captured.dropped == ("webhook_v2", "s3")


def test_pixels_are_taken_of_an_answer_s_pictures(tmp_path):
    """The hash of a file alone tells little; of RunPod's job as of a plain answer."""
    images = [base64.b64encode(PIXEL).decode()]
    answer = {"outputs": [{"text": "t"}, OUTPUT], "images": images}
    for told in (
        {**PAYLOAD, **answer},
        {"input": PAYLOAD, "output": answer},
        {"payload": PAYLOAD, "answered": answer},
    ):
        text, file = written(tmp_path, told).expected
        assert text == {"text": "t"}
        assert len(file["pixels"]) == 64
    (broken,) = written(tmp_path, {**PAYLOAD, "outputs": [OUTPUT], "images": ["*"]}).expected
    assert broken["pixels"] is None


def test_secrets_are_never_written(tmp_path):
    """Neither keys, nor what is in URLs, nor where results go."""
    payload = {
        "id": "x",
        "prompt": {
            "1": {
                "inputs": {
                    "image": "https://user:hush@h/a.png?X-Amz-Signature=hush",
                    "api_key": "hush",
                    "aws_access_key_id": "hush",
                    "aws_secret_access_key": "hush",
                    "secret_key": "hush",
                    "token": "hush",
                    "session_token": "hush",
                    "Authorization": "Bearer hush",
                    "headers": {"X-Api-Key": "hush"},
                    "tokens": ["a", "https://h/plain.png"],
                    "text": "a cat",
                    "seed": 3,
                }
            }
        },
        "credentials": [{"token": "hush"}],
        "extra_data": {"api_key_comfy_org": "hush"},
        "webhook_v2": "https://h/hush",
        "s3": {"bucket": "hush"},
    }
    write_captured(tmp_path / "c.json", payload)
    text = (tmp_path / "c.json").read_text()
    assert "hush" not in text
    kept = without_secrets(payload)["prompt"]["1"]["inputs"]
    assert kept["tokens"] == ["a", "https://h/plain.png"]
    assert (kept["text"], kept["seed"]) == ("a cat", 3)
    with pytest.raises(InvalidPayload, match=r"inputs\.image was left out"):
        read_captured(tmp_path / "c.json")


def test_what_came_of_it_is_written(tmp_path):
    """Hashes of files, whole texts, or how it failed."""
    path = tmp_path / "c.json"
    (tmp_path / "a.png").write_bytes(PIXEL)
    saved = [Saved(OUTPUT, path=tmp_path / "a.png"), Saved({"text": "said"})]
    write_captured(path, PAYLOAD, saved)
    file, text = read_captured(path).expected
    assert (len(file["pixels"]), file["sha256"] != "0" * 64) == (64, True)
    assert text == {"text": "said"}

    write_captured(path, PAYLOAD, error=ExecutionFailed("no luck"))
    answered = json.loads(path.read_bytes())["answered"]
    assert (answered["status"], answered["error"]["error"]) == ("failed", "no luck")
    assert read_captured(path).expected == []
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
