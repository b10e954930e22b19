"""An id is any text: it names the job, and never a place on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from contract.disk import assert_nothing_new, files_below
from contract.graphs import data_uri, encoded, fine, inverted, photo, pictures, refused

if TYPE_CHECKING:
    from live import LiveServer

IDS = [
    "../../x",
    "../../../../tmp/escaped",
    "a/b",
    "/etc/passwd",
    "..",
    ".",
    "...",
    ".hidden",
    "-rf",
    "~root",
    "C:\\Windows\\x",
    "a\\b",
    "x" * 500,
    "\u00e4\u4e2d\u6587\U0001f600",
    "line\nbreak",
    "nul\x00char",
    " ",
    "%2e%2e%2f",
    "%date:yyyy%",
    "a?b#c&d=e",
    "CON",
    "x'; DROP TABLE jobs; --",
    "<script>alert(1)</script>",
    "{0}{id}%s%d",
]


@pytest.mark.parametrize("job_id", IDS, ids=ascii)
def test_a_hostile_id_is_only_a_name(server: LiveServer, job_id: str) -> None:
    """The result is fine, the id comes back as it was, names are leaves, no file is left."""
    before = files_below(server.home)

    body = fine(server.prompt(inverted(data_uri(encoded(photo()))), id=job_id))

    (name,) = body["filenames"]
    assert body["id"] == job_id
    assert pictures(body)[0].size == photo().size
    assert name.endswith("_inv_00001_.png")
    assert name.isascii()
    assert Path(name).name == name
    assert name[0] not in ".-"
    assert len(name) < 200
    assert_nothing_new(before, server.home)


@pytest.mark.parametrize("job_id", [i for i in IDS if i not in {".", ".."}], ids=ascii)
def test_a_hostile_id_is_found_again(server: LiveServer, job_id: str) -> None:
    """The job's record and events are reached under the very id, percent-encoded."""
    fine(server.prompt(inverted(data_uri(encoded(photo()))), id=job_id))
    path = f"/jobs/{quote(job_id, safe='')}"

    record, events = server.get(path), server.get(f"{path}/events")

    assert (record.status_code, record.json()["id"]) == (200, job_id)
    assert record.json()["status"] == "succeeded"
    assert "event: succeeded" in events.text


@pytest.mark.parametrize("job_id", ["", "x" * 513, 7, ["a"], {"a": 1}, True])
def test_what_is_no_id_is_refused(strict_server: LiveServer, job_id: object) -> None:
    """An empty, endless or non-text id is told as such."""
    answer = strict_server.prompt(inverted(data_uri(encoded(photo()))), id=job_id)

    assert refused(answer, 400, "invalid_payload")["location"] == "id"


def test_a_null_id_is_none(strict_server: LiveServer) -> None:
    """`null` is the same as no id."""
    assert fine(strict_server.prompt(inverted(data_uri(encoded(photo()))), id=None))["id"]


def test_a_hostile_id_can_be_interrupted(strict_server: LiveServer) -> None:
    """/interrupt takes any text, and says that nothing of that id runs."""
    for job_id in IDS:
        answer = strict_server.post("/interrupt", {"id": job_id})
        assert answer.status_code == 404
        why = "no unfinished job has this id"
        assert answer.json() == {"id": job_id, "interrupted": "failed", "error": why}
