"""Which adapter an environment is for."""

from __future__ import annotations

import pytest

from local_server.platforms import Choice, choose

SALAD = [
    f"SALAD_{name}"
    for name in (
        *("MACHINE_ID", "INSTANCE_ID", "CONTAINER_GROUP_ID", "CONTAINER_GROUP_NAME"),
        *("ORGANIZATION_ID", "ORGANIZATION_NAME", "PROJECT_ID", "PROJECT_NAME"),
    )
]
QUEUE = {"RUNPOD_WEBHOOK_GET_JOB": "https://x/$ID", "RUNPOD_ENDPOINT_ID": "e", "RUNPOD_POD_ID": "p"}


def test_no_platform_is_plain_http():
    """On the port that the server has by itself."""
    assert choose({"PATH": "/bin"}) == Choice("http", "no platform's variables are set")


def test_a_worker_of_a_runpod_queue():
    """RunPod gives it the endpoint and the pod as well: the queue decides."""
    found = choose(QUEUE)
    assert (found.adapter, found.port) == ("runpod", None)
    assert found.reason.startswith("RUNPOD_WEBHOOK_GET_JOB is set")


def test_a_load_balancing_endpoint_of_runpod_is_http_on_its_port():
    """80 where PORT is not set."""
    found = choose({"RUNPOD_ENDPOINT_ID": "e", "RUNPOD_POD_ID": "p", "PORT_HEALTH": "8080"})
    assert (found.adapter, found.port) == ("http", 80)
    assert "a load-balancing endpoint of RunPod" in found.reason


@pytest.mark.parametrize("around", [{}, {"RUNPOD_POD_ID": "p"}])
def test_the_sdks_local_api_is_a_runpod_worker(around):
    """As with worker-comfyui, whose image has that one variable; ADAPTER still wins."""
    found = choose({**around, "SERVE_API_LOCALLY": "True"})
    assert found == Choice("runpod", "SERVE_API_LOCALLY is true: the local API of RunPod's SDK")
    assert choose({**around, "SERVE_API_LOCALLY": "false"}).adapter == "http"
    assert choose({**around, "SERVE_API_LOCALLY": "true"}, "http").adapter == "http"


def test_a_runpod_pod_is_http_on_the_usual_port():
    """It has neither a queue nor a load balancer."""
    found = choose({"RUNPOD_POD_ID": "p"})
    assert (found.adapter, found.port) == ("http", None)
    assert "RUNPOD_POD_ID is set" in found.reason


@pytest.mark.parametrize("name", SALAD)
def test_any_of_salads_variables_is_salad(name):
    """The one that was found is named."""
    assert choose({name: "x"}) == Choice("salad", f"{name} is set: a container of SaladCloud")


@pytest.mark.parametrize("name", ["SALAD_API_KEY", "SALAD_QUEUE_WORKER", "SALAD_METADATA_URI"])
def test_a_setting_of_ours_about_salad_is_not_salad(name):
    """A key to deploy with is on everybody's machine."""
    assert choose({name: "x"}).adapter == "http"


def test_modal_is_told_from_its_task():
    """The command refuses it; here it is only found."""
    assert choose({"MODAL_TASK_ID": "ta-1"}).adapter == "modal"


@pytest.mark.parametrize("asked", ["http", "runpod", "salad", "modal"])
@pytest.mark.parametrize("environ", [{}, QUEUE, {"SALAD_MACHINE_ID": "m"}, {"MODAL_TASK_ID": "t"}])
def test_what_was_asked_for_wins(asked, environ):
    """ADAPTER, whatever the platform."""
    assert choose(environ, asked) == Choice(asked, f"ADAPTER={asked}")


def test_http_that_was_asked_for_has_the_port_of_the_platform():
    """A load balancer calls 80 whoever chose the adapter."""
    assert choose({"RUNPOD_ENDPOINT_ID": "e"}, "http").port == 80
    assert choose({"RUNPOD_ENDPOINT_ID": "e"}, "salad").port is None


def test_an_empty_variable_is_none():
    """Templates pass on what is not set as an empty text."""
    assert choose({"RUNPOD_WEBHOOK_GET_JOB": "", "SALAD_MACHINE_ID": " "}).adapter == "http"
