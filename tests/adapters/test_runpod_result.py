"""What is posted of a job."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.runpod_result import (
    ASYNC_BYTES,
    SYNC_BYTES,
    breaks_worker,
    ceiling,
    check_size,
    failure,
    unreserved,
)
from handler.errors import ExecutionFailed, InvalidPayload, ResultTooLarge
from handler.wire import Answer


def test_a_sync_job_may_have_more() -> None:
    """20 MB; one of /run 10."""
    assert (ceiling("sync-1-e1"), ceiling("1-e1")) == (SYNC_BYTES, ASYNC_BYTES)


def test_the_sdks_own_keys_are_never_lost() -> None:
    """It would take `error` out of an output, and a pod down for `refresh_worker`."""
    plain = {"images": []}

    assert unreserved(plain) is plain
    assert unreserved({"error": "", "refresh_worker": 1, "x": 2}) == {
        "error_": "",
        "refresh_worker_": 1,
        "x": 2,
    }


def test_a_large_answer_is_refused() -> None:
    """Counted as JSON."""
    answer = Answer("id", {"id": "x" * 100}, [], {})

    check_size(answer, 1000)
    with pytest.raises(ResultTooLarge):
        check_size(answer, 50)


@pytest.mark.parametrize("details", [{"x": object()}, {"\ud800": "\udfff"}, {1: {2}}, float("nan")])
def test_an_envelope_is_json_whatever_is_in_it(details: Any) -> None:
    """The SDK posts nothing of what it cannot encode."""
    told = failure(InvalidPayload("bad \udcff name", details=details))

    json.dumps(told, ensure_ascii=False).encode()
    assert told["code"] == "invalid_payload"
    assert told["error"].startswith("bad")


def test_a_fault_of_ours_tells_no_traceback() -> None:
    """Its kind alone; the log has the rest."""
    told = failure(KeyError("secret"))

    assert told["code"] == "internal_error"
    assert "secret" not in json.dumps(told)


def test_an_error_without_words_is_a_failure_still() -> None:
    """An empty `error` would count as a success."""
    assert failure(InvalidPayload(""))["error"] == "invalid_payload"


def test_a_broken_gpu_needs_another_worker() -> None:
    """Its context does not come back; any other failure is the job's."""
    broken = ExecutionFailed("x", details={"cause": "gpu_fault"}).envelope()

    assert breaks_worker(broken)
    assert not breaks_worker(ExecutionFailed("x", details=["a"]).envelope())
