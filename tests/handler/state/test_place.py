"""Where state is, and several processes that share it."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from pathlib import Path

import pytest
import state_process
from state_process import heard, settings, start

from handler.errors import StateUnavailable
from handler.settings import Settings, SettingsError
from handler.state.directory import DirectoryBlobs
from handler.state.event_log import LoggedEvent
from handler.state.idempotency import Way
from handler.state.place import blobs_of, open_state
from handler.state.records import OutputRecord, payload_digest
from handler.state.s3 import S3Blobs

CANARY = "canary4711secret"


def no_client():
    return None


@pytest.fixture(params=["directory", "s3"])
def shared(request, tmp_path):
    """A STATE_URL and the endpoint that goes with it."""
    if request.param == "directory":
        return str(tmp_path / "shared"), ""
    return f"s3://state/{secrets.token_hex(4)}", request.getfixturevalue("s3_server")


@pytest.mark.parametrize(
    ("url", "kind", "told"),
    [
        ("", DirectoryBlobs, "/sd/jobs"),
        ("/mnt/state", DirectoryBlobs, "/mnt/state"),
        ("file:///mnt/a%20b", DirectoryBlobs, "/mnt/a b"),
        ("s3://bucket", S3Blobs, "s3://bucket/"),
        ("s3://bucket/a/b/", S3Blobs, "s3://bucket/a/b/"),
    ],
)
def test_the_place_is_chosen_by_url(tmp_path, url, kind, told):
    """A folder, a bucket, or the local folder when there is none."""
    blobs = blobs_of(url, Path("/sd"), no_client)

    assert isinstance(blobs, kind)
    assert told in repr(blobs)


@pytest.mark.parametrize("url", ["gs://b", "file://host/x", "s3://", "https://e.org/"])
def test_other_urls_are_refused_at_the_start(url):
    """Not when the first job is lost."""
    with pytest.raises(SettingsError, match="STATE_URL"):
        Settings.from_env({"STATE_URL": url})


async def test_a_place_that_cannot_be_had_is_told(tmp_path):
    """With the variable to look at, and nothing is left open."""
    (tmp_path / "file").touch()

    with pytest.raises(StateUnavailable) as told:
        await open_state(settings("", tmp_path / "file"), no_client, 1.0)
    assert "STATE_DIR" in told.value.hint
    with pytest.raises(StateUnavailable, match="no keys"):
        await open_state(settings("s3://b", tmp_path / "sd"), no_client, 1.0)


async def test_what_processes_send_at_once_runs_once(shared, tmp_path):
    """Ten keys, sent by three processes at the same time."""
    place, endpoint = shared
    workers = [start(place, tmp_path / f"sd{n}", "claim", "10", endpoint) for n in range(3)]
    try:
        assert [heard(one) for one in workers] == ["ready"] * 3
        for one in workers:
            one.stdin.write("\n")
            one.stdin.flush()
        told = [heard(one) for one in workers]
    finally:
        state_process.end(*workers)

    for ways in zip(*told, strict=True):
        assert sorted(way for way, _ in ways) == ["join", "join", "run"]
        assert len({uid for _, uid in ways}) == 1


async def test_a_job_whose_process_was_killed_has_failed_after_the_restart(shared, tmp_path):
    """On the same machine, at once: retryable, and told to whoever asks any worker."""
    place, endpoint = shared
    process = start(place, tmp_path / "sd", "hold", "job-1", endpoint)
    name = heard(process)
    state_process.end(process)  # SIGKILL

    client = lambda: state_process.client(endpoint)  # noqa: E731
    state = await open_state(settings(place, tmp_path / "sd"), client, time.time())
    other = await open_state(settings(place, tmp_path / "sd2"), client, time.time())
    try:
        assert state.instance.id == name
        (record,) = state.abandoned
        assert other.abandoned == ()
        told = (await other.store.read("job-1")).record
        assert told == record
        assert (told.phase, told.retryable, told.error["code"]) == ("failed", True, "worker_lost")
        assert told.events[-1]["type"] == "failed"
        again = state_process.new_record(state, "job-1", None)
        assert (await other.admission.enter(again)).way is Way.RUN
    finally:
        await state.close()
        await other.close()


async def test_a_living_process_keeps_its_jobs(tmp_path):
    """Another one on the same machine and in the same folder has a name of its own."""
    process = start("", tmp_path / "sd", "hold", "job-1")
    try:
        name = heard(process)
        state = await open_state(settings("", tmp_path / "sd"), no_client, time.time())
        assert state.instance.id != name
        assert state.abandoned == ()
        assert (await state.store.read("job-1")).record.phase == "running"
        await state.close()
    finally:
        state_process.end(process)


async def test_one_worker_runs_and_the_other_answers(shared, tmp_path, record):
    """The poll, the output, and the redelivery."""
    place, endpoint = shared
    client = lambda: state_process.client(endpoint)  # noqa: E731
    a = await open_state(settings(place, tmp_path / "a"), client, time.time())
    b = await open_state(settings(place, tmp_path / "b"), client, time.time())
    try:
        first = state_process.new_record(a, "job 1", "header:k")
        assert (await a.admission.enter(first)).way is Way.RUN
        (tmp_path / "cat.png").write_bytes(b"0123456789")
        assert await a.kept.put(first.uid, "cat.png", tmp_path / "cat.png", time.time())
        output = OutputRecord("cat.png", "image/png", 10, "s", kept=True)
        await a.store.update("job 1", first.uid, lambda one: succeeded(one, output))

        again = await b.admission.enter(state_process.new_record(b, "job 2", "header:k"))
        assert again.way is Way.STORED
        assert again.record.outputs == (output,)
        async with await b.kept.open(first.uid, "cat.png", 2, 5) as file:
            assert b"".join([block async for block in file.blocks()]) == b"2345"
        # Its output is gone: then the result cannot be told, and is made again.
        assert await b.kept.expire(time.time() + 4000) == 1
        last = await b.admission.enter(state_process.new_record(b, "job 3", "header:k"))
        assert last.way is Way.RUN
    finally:
        await a.close()
        await b.close()


def succeeded(record, output):
    return replace(record, phase="succeeded", finished=time.time(), outputs=(output,))


async def test_no_secret_of_a_payload_is_on_the_disk(tmp_path):
    """Nor the payload itself."""
    payload = {
        "prompt": {"1": {"inputs": {"text": CANARY}}},
        "credentials": [{"auth": {"token": CANARY}}],
        "extra_data": {"api_key_comfy_org": CANARY},
    }
    state = await open_state(settings("", tmp_path / "sd"), no_client, time.time())
    record = state_process.new_record(state, "a", f"header:{'k' * 9}")
    await state.admission.enter(replace(record, digest=payload_digest(payload)))
    state.events.tell(record.uid, LoggedEvent(1, "phase", {"phase": "running"}))
    await state.events.settle()
    await state.close()

    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(found) > 5
    assert not any(CANARY.encode() in path.read_bytes() for path in found)


async def test_closing_lets_go_of_the_name(tmp_path):
    """The next process has it again, and nothing is said to be lost."""
    first = await open_state(settings("", tmp_path / "sd", INSTANCE_ID="Pod 7"), no_client, 1.0)
    await first.close()
    second = await open_state(settings("", tmp_path / "sd", INSTANCE_ID="Pod 7"), no_client, 2.0)

    assert first.instance.id == second.instance.id
    assert (first.instance.name, first.instance.id[:6]) == ("Pod 7", "pod-7-")
    assert second.abandoned == ()
    await second.close()


async def test_a_result_is_stored_only_where_all_of_it_can_be_had(tmp_path, record):
    """Kept, uploaded, or a text that is in the record itself; else the key runs again."""
    state = await open_state(settings("", tmp_path / "sd"), lambda: None, time.time())
    (tmp_path / "a").write_bytes(b"abc")
    text = OutputRecord("t", "text/plain", 1, "00", {"text": "x"})
    outputs = {
        "kept": OutputRecord("a", "b", 3, "00", kept=True),
        "text": text,
        "url": OutputRecord("a", "b", 3, "00", url="https://a.test/a"),
        "lost": OutputRecord("gone", "b", 3, "00", kept=True),
        "none": OutputRecord("a", "b", 3, "00"),
    }
    ways = {}
    for what, output in outputs.items():
        first = record(what, key=what)
        await state.admission.enter(first)
        await state.kept.put(first.uid, "a", tmp_path / "a", time.time())
        facts = {"phase": "succeeded", "finished": 1.0, "outputs": (text, output)}
        await state.store.update(what, first.uid, lambda one, facts=facts: replace(one, **facts))
        ways[what] = (await state.admission.enter(record(f"{what}-2", key=what))).way.value
    await state.close()
    assert ways == {
        "kept": "stored",
        "text": "stored",
        "url": "stored",
        "lost": "run",
        "none": "run",
    }
