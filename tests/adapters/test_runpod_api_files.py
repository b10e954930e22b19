"""The queue on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from adapters.runpod_api_files import JobFiles
from handler.errors import StateUnavailable


@pytest.fixture
def files(tmp_path):
    made = JobFiles(tmp_path / "queue")
    made.open()
    yield made
    made.close()


def test_a_job_and_its_result_are_kept(files):
    """For who opens the folder next."""
    files.take("a", {"status": "IN_QUEUE"}, {"input": 1})
    files.keep("a", {"output": 2})
    files.note("a", lambda: {"status": "COMPLETED"})

    assert files.request("a") == {"input": 1}
    assert files.result("a") == b'{"output":2}'
    assert list(files.left()) == [("a", {"status": "COMPLETED"})]


def test_what_is_removed_is_gone(files, tmp_path):
    """A result alone, or all of a job; twice is fine."""
    files.take("a", {}, {"input": 1})
    files.keep("a", {"output": 2})
    files.drop_result("a")
    files.drop_result("a")
    assert files.result("a") == b"{}"
    files.remove("a")
    files.remove("a")
    assert [path.name for path in (tmp_path / "queue").iterdir()] == ["lock"]


def test_nobody_else_may_read_a_request(files, tmp_path):
    """It may have credentials in it."""
    files.take("a", {}, {"input": 1})
    assert (tmp_path / "queue" / "a.request").stat().st_mode & 0o777 == 0o600


def test_a_record_that_was_cut_short_is_no_job(files, tmp_path):
    """It is put away."""
    (tmp_path / "queue" / "b.job").write_bytes(b'{"sta')
    assert list(files.left()) == []
    assert not (tmp_path / "queue" / "b.job").exists()


def test_a_folder_that_another_server_has_is_left_alone(files, tmp_path, caplog):
    """The second one's queue ends with it."""
    files.take("a", {}, {"input": 1})
    second = JobFiles(tmp_path / "queue")
    second.open()
    second.take("b", {}, {"input": 2})

    assert "ends with the server" in caplog.text
    assert [job_id for job_id, _ in second.left()] == ["b"]
    assert [job_id for job_id, _ in files.left()] == ["a"]
    second.close()


def test_what_cannot_be_written_is_refused(files, tmp_path):
    """As state that is not there."""
    for path in (tmp_path / "queue").iterdir():
        path.unlink()
    (tmp_path / "queue").rmdir()
    with pytest.raises(StateUnavailable, match="cannot be kept"):
        files.take("a", {}, {"input": 1})


def test_what_is_noted_at_once_is_kept_as_it_is_now(files):
    """By threads in any order: none is in the way of another, or writes what was before."""
    files.take("a", {}, {"input": 1})
    now = {"retries": 0}

    def note(number):
        now["retries"] = number
        files.note("a", lambda: dict(now))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(note, range(400)))

    assert list(files.left()) == [("a", now)]
