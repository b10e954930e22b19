"""What `comfyfn run` runs."""

from __future__ import annotations

import argparse
import json

import pytest

from handler.errors import InvalidPayload
from local_server.cli.run_payload import endpoint_input, wanted

GRAPH = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8}}}


def options(**given):
    """Give options as the parser does."""
    none = {"graph": None, "workflow": None, "replay": None, "input": []}
    return argparse.Namespace(**{**none, **given})


def test_a_file_is_a_payload_and_without_one_it_is_the_sample(tmp_path):
    """With the inputs that were set."""
    path = tmp_path / "flow.json"
    path.write_text(json.dumps(GRAPH))
    found = wanted(options(graph=str(path), input=["1.width=16"]), None)
    assert found.payload["prompt"]["1"]["inputs"] == {"width": 16}
    assert wanted(options(), None).payload["prompt"]


def test_an_endpoint_s_parameters_are_json_texts_and_files(tmp_path):
    """As those of nodes are."""
    (tmp_path / "a.png").write_bytes(b"x")
    given = endpoint_input(["steps=20", "prompt=a = b", f"image={tmp_path / 'a.png'}"])
    assert given == {"steps": 20, "prompt": "a = b", "image": "data:image/png;base64,eA=="}
    found = wanted(options(workflow="txt2img", input=["steps=1"]), None)
    assert found.payload == {"workflow": "txt2img", "input": {"steps": 1}}
    for bad in ("steps", "=1"):
        with pytest.raises(InvalidPayload, match="KEY=VALUE"):
            endpoint_input([bad])


def test_a_captured_job_is_run_as_it_was(tmp_path, capsys):
    """What is left out of it is told."""
    path = tmp_path / "job.json"
    told = {"prompt": GRAPH, "webhook": "https://x"}
    path.write_text(json.dumps({"payload": told, "answered": {"outputs": [{"text": "a"}]}}))
    found = wanted(options(replay=str(path)), None)
    assert (found.payload, found.expected) == ({"prompt": GRAPH}, [{"text": "a"}])
    assert capsys.readouterr().err == "not sent again: webhook (the outputs come here)\n"
    with pytest.raises(InvalidPayload, match="-i does not go with it"):
        wanted(options(replay=str(path), input=["1.width=2"]), None)
    with pytest.raises(InvalidPayload, match="one of them"):
        wanted(options(replay=str(path), graph="x"), None)
