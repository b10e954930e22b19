"""Calls of an endpoint become graphs."""

import json

import pytest

from handler.endpoints import Endpoints, UnknownWorkflow, calls_endpoint
from handler.errors import InternalFault, InvalidPayload

GRAPH = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 16, "height": 16},
        "_meta": {"title": "$size"},
    },
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "x"},
        "_meta": {"title": "$name"},
    },
}


@pytest.fixture
def endpoints(tmp_path):
    """Give a folder with one endpoint."""
    (tmp_path / "sd").mkdir()
    (tmp_path / "sd" / "plain.json").write_text(json.dumps(GRAPH))
    return Endpoints(tmp_path)


async def test_titles_name_the_parameters(endpoints):
    """One free input is called as its node is, several by their names, too."""
    call = {"workflow": "sd/plain", "input": {"name": "mine", "size_width": 32}, "id": "a"}
    assert calls_endpoint(call)
    payload = await endpoints.resolve(call)
    assert payload["id"] == "a"
    assert set(payload) == {"prompt", "id"}
    assert payload["prompt"]["1"]["inputs"] == {"width": 32, "height": 16}
    assert payload["prompt"]["2"]["inputs"]["filename_prefix"] == "mine"


@pytest.mark.parametrize("name", ["sd/plane", "../sd/plain", "/etc/passwd", "", "a" * 10_000])
async def test_an_unknown_name_is_told(endpoints, name):
    """Names never lead out of the folder."""
    with pytest.raises(UnknownWorkflow) as caught:
        await endpoints.resolve({"workflow": name})
    assert (caught.value.status, caught.value.location) == (404, "workflow")
    assert caught.value.hint == (
        "did you mean sd/plain?" if name == "sd/plane" else caught.value.hint
    )


async def test_an_unknown_parameter_is_told(endpoints):
    """With the one that was meant."""
    with pytest.raises(InvalidPayload, match=r"input\.nam: ") as caught:
        await endpoints.resolve({"workflow": "sd/plain", "input": {"nam": 1}})
    assert caught.value.hint == "did you mean name?"
    with pytest.raises(InvalidPayload, match="an object"):
        await endpoints.resolve({"workflow": "sd/plain", "input": [1]})


async def test_a_broken_file_is_no_fault_of_the_caller(endpoints, tmp_path):
    """It says whose."""
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InternalFault, match="bad"):
        await endpoints.resolve({"workflow": "bad"})


@pytest.mark.parametrize("payload", [{}, [], {"workflow": {}}, {"workflow": "a", "prompt": {}}])
def test_a_graph_is_no_call(payload):
    """It goes its way as ever."""
    assert not calls_endpoint(payload)


def test_no_folder_has_no_endpoints(tmp_path):
    """Nor has one that is not there."""
    assert Endpoints(None).names() == Endpoints(tmp_path / "none").names() == []
