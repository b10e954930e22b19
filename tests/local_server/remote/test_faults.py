"""What goes wrong far away, as our errors."""

from __future__ import annotations

import json

import httpx
import pytest

from handler.errors import InvalidWorkflow
from local_server.remote.faults import describe, failure_of, failure_of_response, json_of


def test_an_envelope_is_the_error_that_it_was():
    """With all that it tells."""
    fault = InvalidWorkflow("no such class", location="prompt.3", hint="install it", details=[1])
    fault.at("prompt.3", "3", "KSampler", "the sampler")
    found = failure_of(fault.envelope())

    assert found.envelope() == fault.envelope()
    assert describe(found) == (
        "code invalid_workflow, blame caller, node 3 (the sampler, KSampler), at prompt.3"
    )


def test_an_exception_that_runpods_sdk_told_is_its_message():
    """Its traceback is for the worker's log."""
    told = {"error_type": "ValueError", "error_message": "no luck", "error_traceback": "Trace"}
    assert failure_of({"error": json.dumps(told)}).message == "no luck"
    assert failure_of({"error": {"message": "as object"}}).message == "as object"
    assert failure_of({"error": ["odd", 1]}).message == '["odd",1]'
    assert failure_of({"error": '{"error_message" broken'}).message.startswith("{")
    assert failure_of({}).message == "the job failed"


@pytest.mark.parametrize(
    ("status", "body", "message", "blame"),
    [
        (401, b"", "http://h answers 401: the key is missing or is not accepted", "caller"),
        (400, b'{"error": "bad", "location": "a.b"}', "http://h answers 400: bad (a.b)", "caller"),
        (502, b"<html>", "http://h answers 502: Bad Gateway", "platform"),
        (404, b'{"detail": "nope"}', "http://h answers 404: nope", "caller"),
    ],
)
def test_a_bare_status_says_what_it_can(status, body, message, blame):
    """With the words of whoever answered."""
    response = httpx.Response(status, content=body)
    found = failure_of_response(response, "http://h")
    assert (found.message, found.blame, found.status) == (message, blame, status)


def test_what_is_no_json_is_none():
    """Proxies answer pages."""
    assert json_of(httpx.Response(200, content=b"<html>")) is None


def test_an_envelope_of_anything_is_an_error_that_can_be_told():
    """Whatever kinds its values have, and whatever status it names."""
    odd = {
        "error": "no",
        "code": 5,
        "blame": ["x"],
        "statusCode": 10**9,
        "node_id": ["n"],
        "node_title": 7,
        "location": {"a": 1},
        "hint": 8,
        "log_tail": "text",
    }
    found = failure_of(odd)
    assert (found.code, found.blame, found.status, found.hint) == (
        "execution_error",
        "platform",
        500,
        "8",
    )
    assert found.log_tail is None
    assert describe(found).endswith("node ['n'] (7), at {'a': 1}")
