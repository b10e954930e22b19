"""The tree of errors: codes, statuses, blame, envelope."""

from __future__ import annotations

import inspect
import re

import orjson
import pytest

from handler import errors
from handler.errors import (
    CallerError,
    EngineDied,
    HandlerError,
    InputFailed,
    InternalFault,
    PlatformError,
    QueueFull,
)

EVERY = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, HandlerError)]
LEAVES = [c for c in EVERY if c not in (HandlerError, CallerError, PlatformError)]


@pytest.mark.parametrize("kind", LEAVES, ids=lambda c: c.__name__)
def test_the_drawn_tree_tells_the_truth(kind):
    """Status and code of each class stand in the module's docstring as they are."""
    line = next(
        (row for row in (errors.__doc__ or "").splitlines() if f" {kind.__name__} " in row), ""
    )

    assert str(kind.status) in line or kind.status == 405
    assert kind.code in line or kind.code == "method_not_allowed"


def test_codes_are_unique_words():
    """Programs match them."""
    codes = [kind.code for kind in LEAVES]

    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)


@pytest.mark.parametrize("kind", EVERY, ids=lambda c: c.__name__)
def test_every_envelope_has_the_same_keys_and_is_json(kind):
    """One shape on every platform, with comfyui-api's two names for the same."""
    envelope = orjson.loads(orjson.dumps(kind("what happened").envelope()))

    assert list(envelope) == [
        *("error", "location", "code", "blame", "retryable", "node_id", "node_title"),
        *("class_type", "hint", "details", "log_tail", "message", "statusCode"),
    ]
    assert envelope["error"] == envelope["message"] == "what happened"
    assert envelope["statusCode"] == kind.status


def test_blame_and_retry_follow_the_family_and_can_be_told():
    """The defaults are the family's; who knows better says so."""
    assert (CallerError("x").blame, CallerError("x").retryable) == ("caller", False)
    assert (EngineDied("x").blame, EngineDied("x").retryable) == ("platform", True)
    told = InputFailed("x", blame="platform", retryable=True, retry_after_s=3)
    assert (told.blame, told.retryable, told.retry_after_s) == ("platform", True, 3)
    assert EngineDied("x", retryable=False).retryable is False


def test_a_place_is_added_but_never_replaced():
    """The one who found the fault knows its place best."""
    error = InputFailed("x", node_id="7").at("prompt.1", "1", "LoadImage", "photo")

    assert error.location == "prompt.1"
    assert error.node_id == "7"
    assert (error.class_type, error.node_title) == ("LoadImage", "photo")


def test_a_detached_copy_says_the_same_and_holds_nothing():
    """For records that outlive the request."""
    request = [b"large"]
    try:
        try:
            raise ValueError(request)
        except ValueError as cause:
            raise QueueFull("full", hint="wait", retry_after_s=2.0) from cause
    except QueueFull as raised:
        error = raised
    copy = error.detached()

    assert type(copy) is QueueFull
    assert (copy.envelope(), copy.args, copy.retry_after_s) == (error.envelope(), error.args, 2.0)
    assert (copy.__traceback__, copy.__cause__, copy.__context__) == (None, None, None)


def test_a_fault_that_nobody_foresaw_says_little():
    """Its text may tell a caller's secrets; the cause is there for the log."""
    cause = ValueError("s3cret")
    error = InternalFault.of(cause)

    assert error.message == "internal fault: ValueError"
    assert error.__cause__ is cause
    assert InternalFault.of(OSError(28, "No space", "/x")).message.endswith("OSError: No space")


def test_figures_of_a_job_are_in_its_error_only():
    """Two jobs may end by one error: neither has the other's."""
    error = QueueFull("full")
    assert "stats" not in error.envelope()
    first, second = error.with_stats({"gpu_time": 1}), error.with_stats({"gpu_time": 2})

    assert first is error
    assert type(second) is QueueFull
    assert [one.envelope()["stats"]["gpu_time"] for one in (first, second)] == [1, 2]
    assert {**second.envelope(), "stats": {"gpu_time": 1}} == first.envelope()
