"""The real SDK's worker against a double of RunPod's job API.

Left out of the facts that were observed, since ours is one async function that gives an object or
an error, always: sync and plain generator handlers, results that are no object, handlers that raise
or exit, results that no JSON can hold. Left out as the SDK's alone: its pause of 5 s after 429, and
results refused three times. And `--rp_serve_api`: `comfyfn serve --as runpod` is our own.
"""

from __future__ import annotations

import base64
import json
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from contract.graphs import (
    assert_same_pixels,
    data_uri,
    encoded,
    inverted,
    negative,
    photo,
    picture_of,
    plain,
)
from contract.storages import s3_client
from live import alive
from platforms.runpod_double import RunpodDouble, RunpodWorker
from platforms.runpod_graphs import file_of, sleeping
from sources.stores import s3_store

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "runpod-results"


@dataclass(frozen=True, slots=True)
class Workers:
    """Three workers that share their state, each behind a double of its own.

    Attributes:
        one: takes one job at a time.
        many: takes ten, and has a bucket.
        streaming: yields.
    """

    one: RunpodWorker
    many: RunpodWorker
    streaming: RunpodWorker
    store: str


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Give workers for the tests that leave them as they were; started side by side."""
    home = tmp_path_factory.mktemp("runpod")
    state = {"STATE_URL": str(home / "state"), "URL_ALLOW_HOSTS": "127.0.0.1"}
    with s3_store() as store:
        client = s3_client(store.endpoint)
        for name in (BUCKET, "of-the-caller"):
            client.create_bucket(Bucket=name)
        client.close()
        bucket = {
            "BUCKET_ENDPOINT_URL": store.endpoint,
            "BUCKET_ACCESS_KEY_ID": "test",
            "BUCKET_SECRET_ACCESS_KEY": "test",
            "BUCKET_NAME": BUCKET,
        }
        doubles = [RunpodDouble().start() for _ in range(3)]
        made = [
            RunpodWorker(doubles[0], home / "one", "pod-1", **state),
            RunpodWorker(
                doubles[1], home / "many", "pod-2", RUNPOD_CONCURRENCY="10", **state, **bucket
            ),
            RunpodWorker(doubles[2], home / "streaming", "pod-3", RUNPOD_STREAM="true", **state),
        ]
        for worker in made:
            worker.start(polling=False)
        try:
            for worker in made:
                worker.wait_polling()
            yield Workers(*made, store.endpoint)
        finally:
            for worker in made:
                worker.close()
            for double in doubles:
                double.close()


@pytest.fixture
def one(workers: Workers) -> RunpodWorker:
    """Give the worker that takes one job at a time."""
    return workers.one


def engine_state(worker: RunpodWorker) -> dict[str, Any]:
    """Ask the embedded engine what it has done."""
    url = f"http://127.0.0.1:{worker.engine_port}/_test/state"
    told: dict[str, Any] = httpx.get(url, trust_env=False).json()
    return told


# -- what a job is given and what is posted -------------------------------------------------------


def test_our_payload_is_answered_as_over_http(one: RunpodWorker) -> None:
    """The same keys as `POST /prompt`, the picture inside; nothing is a failure."""
    job_id = one.double.give({"prompt": plain(width=64, height=48)})
    posted = one.double.result(job_id)
    (post,) = [post for post in one.double.posts if post.job_id == job_id and post.kind == "done"]

    assert set(posted) == {"output"}
    body = posted["output"]
    assert body["id"] == job_id
    assert {"id", "prompt", "images", "filenames", "outputs", "stats", "engine"} <= set(body)
    assert picture_of(base64.b64decode(body["images"][0])).size == (64, 48)
    assert body["stats"]["adapter"] == "runpod"
    assert post.query["isStream"] == "false"


def test_worker_comfyuis_call_is_answered_in_its_shape(one: RunpodWorker) -> None:
    """Images by their names, as base64 and as data URI; two jobs' equal names do not meet."""
    first, second = photo(), photo(20, 10)
    uri = data_uri(encoded(second))
    bare = base64.b64encode(encoded(first)).decode()
    ids = [
        one.double.give(
            {"workflow": inverted("in.png"), "images": [{"name": "in.png", "image": image}]}
        )
        for image in (bare, uri)
    ]
    for job_id, sent in zip(ids, (first, second), strict=True):
        posted = one.double.result(job_id)
        assert set(posted) == {"output"}, posted
        (image,) = posted["output"]["images"]
        assert set(image) == {"filename", "type", "data"}
        assert image["type"] == "base64"
        assert_same_pixels(picture_of(base64.b64decode(image["data"])), negative(sent))


def test_worker_comfyuis_call_may_be_a_text_and_has_what_it_drops(one: RunpodWorker) -> None:
    """Videos and texts beside the images; nothing at all is its `success_no_images`."""
    graph = file_of(3000)
    graph["t"] = {"class_type": "TestText", "inputs": {"text": "a caption"}}
    told = one.double.run(json.dumps({"workflow": graph}))["output"]

    assert told["images"] == []
    assert told["texts"] == ["a caption"]
    assert len(base64.b64decode(told["videos"][0]["data"])) == 3000
    assert "status" not in told


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, "Please provide input"),
        ("{", "Invalid JSON format in input"),
        ({"images": []}, "Missing 'workflow' parameter"),
        (
            {"workflow": plain(), "images": [{"name": "x"}]},
            "'images' must be a list of objects with",
        ),
        ({"prompt": {"1": {"class_type": "Nope", "inputs": {}}}}, 'there is no node class "Nope"'),
        ({"workflow": "no-such", "input": {}}, "there is no endpoint 'no-such'"),
        ([1], "the payload must be a JSON object"),
        ({"prompt": plain(), "timeouts": {"total_s": "x"}}, "timeouts.total_s"),
    ],
)
def test_what_cannot_be_run_is_told(one: RunpodWorker, given: Any, text: str) -> None:
    """The envelope, its `error` beside `output` where RunPod wants it, without a traceback."""
    posted = one.double.run(given, policy={"executionTimeout": 600_000})

    assert text in posted["error"]
    assert posted["output"]["blame"] in ("caller", "image")
    assert posted["output"]["message"] == posted["error"]
    assert "Traceback" not in json.dumps(posted)
    assert "stopPod" not in posted


def test_a_failure_of_worker_comfyuis_call_has_its_shape(one: RunpodWorker) -> None:
    """`error` and `details`, a list of texts; our own fields are beside them."""
    graph = {"1": {"class_type": "Nope", "inputs": {}}}
    posted = one.double.run({"workflow": graph})

    assert isinstance(posted["error"], str)
    assert all(isinstance(line, str) for line in posted["output"]["details"])
    assert posted["output"]["code"] == "invalid_workflow"


def test_a_job_without_an_input_of_its_own_stops_nobody(one: RunpodWorker) -> None:
    """The SDK drops what has no `input`; the next job is run."""
    one.double._loop.call_soon_threadsafe(one.double._queue, {"id": "no-input"})

    assert "output" in one.double.run({"prompt": plain()})


# -- the platform's limits ------------------------------------------------------------------------


def test_a_result_over_what_runpod_takes_is_a_clear_failure(one: RunpodWorker) -> None:
    """13 MB are too much for /run and not for /runsync; 25 MB for both, without a storage."""
    jobs = {
        one.double.give({"prompt": file_of(10_000_000)}, "a-1"): "result_too_large",
        one.double.give({"prompt": file_of(10_000_000)}, "sync-1"): None,
        one.double.give({"prompt": file_of(19_000_000)}, "sync-2"): "result_too_large",
    }
    for job_id, code in jobs.items():
        posted = one.double.result(job_id)
        assert posted["output"].get("code") == code, posted.get("error")
    sizes = [post.size for post in one.double.posts if post.job_id == "sync-1"]
    assert 13_000_000 < sizes[-1] < 20_000_000


def test_a_result_over_it_goes_to_the_bucket(workers: Workers) -> None:
    """With BUCKET_* 25 MB are a link, which gives all of them."""
    told = workers.many.double.run({"prompt": file_of(19_000_000)})["output"]

    (url,) = told["images"]
    assert url.startswith(f"{workers.store}/{BUCKET}/")
    assert len(httpx.get(url, trust_env=False).content) == 19_000_000


def test_with_a_bucket_worker_comfyuis_images_are_links(workers: Workers) -> None:
    """`s3_url`, however small; ours is answered as ever."""
    told = workers.many.double.run({"workflow": plain()})["output"]
    ours = workers.many.double.run({"prompt": plain()})["output"]

    (image,) = told["images"]
    assert image["type"] == "s3_url"
    assert httpx.get(image["data"], trust_env=False).content[:4] == b"\x89PNG"
    assert picture_of(base64.b64decode(ours["images"][0])).size == (64, 48)


def test_a_jobs_own_s3_config_is_its_target(workers: Workers) -> None:
    """`s3Config` of the request: the outputs are in the caller's bucket."""
    config = {
        "accessId": "test",
        "accessSecret": "test",
        "bucketName": "of-the-caller",
        "endpointUrl": workers.store,
    }
    told = workers.one.double.run({"prompt": plain()}, s3Config=config)
    broken = workers.one.double.run({"prompt": plain()}, s3Config={"accessId": "x"})

    assert "of-the-caller" in told["output"]["images"][0]
    assert httpx.get(told["output"]["images"][0], trust_env=False).content[:4] == b"\x89PNG"
    assert "s3Config: accessSecret, bucketName, endpointUrl is missing" in broken["error"]


def test_the_execution_timeout_is_the_jobs_deadline(one: RunpodWorker) -> None:
    """The caller is told by us, before RunPod ends the job."""
    begun = time.monotonic()
    posted = one.double.run({"prompt": sleeping(30, 300)}, policy={"executionTimeout": 1000})

    assert posted["output"]["code"] == "timed_out"
    assert "0.95 s" in posted["error"]
    assert time.monotonic() - begun < 5


# -- while a job runs -----------------------------------------------------------------------------


def test_a_stopped_job_is_interrupted_and_nothing_is_posted(one: RunpodWorker) -> None:
    """Exactly that prompt ends in the engine; the next job is run."""
    before = engine_state(one)["interrupts"]
    job_id = one.double.give({"prompt": sleeping(60, 600)})
    one.double.until(lambda: one.double.of(job_id, "progress"))
    one.double.stop(job_id)
    one.double.until(lambda: engine_state(one)["interrupts"] == before + 1, 10)

    assert "output" in one.double.run({"prompt": plain()})
    assert one.double.done(job_id) is None


def test_progress_is_told_in_order_and_never_after_the_result(one: RunpodWorker) -> None:
    """Seldom, never falling, and the result is the last post."""
    job_id = one.double.give({"prompt": sleeping(3.5, 70)})
    one.double.result(job_id)
    posts = [post for post in one.double.posts if post.job_id == job_id]
    told = [post.body["output"] for post in posts if post.kind == "progress"]

    assert posts[-1].kind == "done"
    assert 2 <= len(told) <= 5
    assert [one["percent"] for one in told] == sorted(one["percent"] for one in told)
    assert all(0 <= one["percent"] <= 100 for one in told)
    assert told[-1]["status"] == "running"


def test_jobs_are_run_at_once_and_pings_name_them(workers: Workers) -> None:
    """A batch is taken, and both are in hand; the ping process knows the ids and the key."""
    double = workers.many.double
    ids = {double.give({"prompt": sleeping(1.2, 12), "id": f"both-{n}"}) for n in range(2)}
    double.until(
        lambda: any(ids <= set(ping.get("job_id", "").split(",")) for ping in double.pings)
    )

    assert not any(double.done(job_id) for job_id in ids)
    for job_id in ids:
        assert "output" in double.result(job_id)
    assert any("batch_size" in query for query in double.queries)
    assert {head.get("Authorization") for head in double.headers} == {"secret-of-the-pod"}


def test_fifty_jobs_are_one_boot(workers: Workers) -> None:
    """The engine's process is the same from first to last."""
    many = workers.many
    engine = many.engine_pid()
    ids = [many.double.give({"prompt": plain()}) for _ in range(50)]
    for job_id in ids:
        assert "output" in many.double.result(job_id, 40)

    assert many.engine_pid() == engine
    assert many.text().count("fitness check(s)") == 1


def test_a_job_handed_out_again_is_answered_from_what_is_known(workers: Workers) -> None:
    """By another worker, which shares the state: nothing is run twice."""
    job_id = workers.one.double.give({"prompt": plain()})
    first = workers.one.double.result(job_id)["output"]
    before = engine_state(workers.many)["prompts_run"]
    workers.many.double.give({"prompt": plain()}, job_id)
    second = workers.many.double.result(job_id)["output"]

    assert second["images"] == first["images"]
    assert second["replayed"] is True
    assert engine_state(workers.many)["prompts_run"] == before


def test_a_job_that_failed_or_was_stopped_is_run_anew_when_it_comes_again(workers: Workers) -> None:
    """By /retry, which leads to any worker: a stored failure would be no other try."""
    one, many = workers.one, workers.many
    graph = plain()
    graph["s"] = {"class_type": "TestRaise", "inputs": {"image": ["1", 0], "message": "no"}}
    graph["2"]["inputs"]["images"] = ["s", 0]
    failed = one.double.give({"prompt": graph})
    assert one.double.result(failed)["output"]["retryable"] is False
    stopped = one.double.give({"prompt": sleeping(2, 20)})
    one.double.until(lambda: one.double.of(stopped, "progress"))
    one.double.stop(stopped)
    assert "output" in one.double.run({"prompt": plain()})
    before = engine_state(many)["prompts_run"]
    many.double.give({"prompt": graph}, failed)
    many.double.give({"prompt": sleeping(2, 20)}, stopped)

    assert many.double.result(failed)["output"]["code"] == "execution_error"
    assert len(many.double.result(stopped)["output"]["images"]) == 1
    assert engine_state(many)["prompts_run"] == before + 2


def test_answers_without_a_job_and_lost_results_stop_nothing(one: RunpodWorker) -> None:
    """204, 400 (FlashBoot), 401 and 500 of the poll; a result refused once arrives."""
    one.double.take_answers.extend([204, 400, 401, 500])
    one.double.refuse_done = 1
    one.double.run({"prompt": plain()})

    assert "output" in one.double.run({"prompt": plain()})
    assert not one.double.take_answers
    assert one.double.refuse_done == 0


def test_a_frozen_worker_renews_what_it_holds(one: RunpodWorker) -> None:
    """FlashBoot stops the process and lets it go on: before the next job it is seen."""
    one.terminate(signal.SIGSTOP)
    time.sleep(4.6)  # what is measured is time
    one.terminate(signal.SIGCONT)

    assert "output" in one.double.run({"prompt": plain()})
    assert "the process was frozen" in one.text()


# -- streams --------------------------------------------------------------------------------------


def test_outputs_are_streamed_as_nodes_finish(workers: Workers) -> None:
    """The first picture comes before the second node is done; the answer is last, without bytes."""
    double = workers.streaming.double
    graph = sleeping(1.0, 10)
    graph["3"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}}
    graph["t"] = {"class_type": "TestText", "inputs": {"text": "words"}}
    graph["f"] = file_of(1_000_000)["1"]
    job_id = double.give({"prompt": graph})
    final = double.result(job_id)
    posts = [post for post in double.posts if post.job_id == job_id and post.kind == "stream"]
    items = [post.body["output"] for post in posts]
    (done,) = [post for post in double.posts if post.job_id == job_id and post.kind == "done"]

    assert done.query["isStream"] == "true"
    assert final == {"output": items}
    assert [item["type"] for item in items] == ["output"] * 4 + ["result"]
    assert items[0]["node_id"] == "3" or items[1]["node_id"] == "3"
    assert done.at - posts[0].at > 0.4
    pictures = [item for item in items if item.get("data")]
    assert all(picture_of(base64.b64decode(item["data"])).size == (64, 48) for item in pictures)
    assert len(pictures) == 2
    assert [item["bytes"] for item in items if "omitted" in item] == [1_000_000]
    assert "words" in [item.get("text") for item in items]
    assert len(items[-1]["outputs"]) == 4
    assert "images" not in items[-1]


def test_a_failing_stream_tells_its_envelope_and_its_text(workers: Workers) -> None:
    """The SDK keeps the text alone: the rest is an item before it."""
    double = workers.streaming.double
    job_id = double.give({"prompt": {"1": {"class_type": "Nope", "inputs": {}}}})
    final = double.result(job_id)
    (item,) = [body["output"] for body in double.of(job_id, "stream")]

    assert set(final) == {"error"}
    assert item["message"] == final["error"]
    assert (item["type"], item["code"]) == ("failed", "invalid_workflow")


def test_a_stopped_stream_is_interrupted(workers: Workers) -> None:
    """As any other job, and nothing is posted at its end."""
    worker = workers.streaming
    before = engine_state(worker)["interrupts"]
    job_id = worker.double.give({"prompt": sleeping(60, 600)})
    worker.double.until(lambda: worker.double.of(job_id, "progress"))
    worker.double.stop(job_id)
    worker.double.until(lambda: engine_state(worker)["interrupts"] == before + 1, 10)

    assert worker.double.done(job_id) is None
    assert "output" in worker.double.run({"prompt": plain()})


# -- the end, in the order of these tests: each ends a worker that is shared ----------------------


def test_sigterm_while_idle_ends_in_a_moment_and_takes_no_job(workers: Workers) -> None:
    """The polls are closed: a job that comes later waits for another worker."""
    worker = workers.streaming
    worker.wait_polling()
    engine = worker.engine_pid()
    begun = time.monotonic()
    assert worker.end() == 0
    taken = time.monotonic() - begun
    before = len(worker.double.taken)
    worker.double.give({"prompt": plain()})
    worker.double.until(lambda: worker.double.polling["pod-3"] == 0)

    assert taken < 1.0
    assert len(worker.double.taken) == before
    assert not alive(engine)


def test_sigterm_while_busy_ends_with_the_result(workers: Workers) -> None:
    """It is posted, then the process ends at once; what came meanwhile is left to others."""
    worker = workers.one
    job_id = worker.double.give({"prompt": sleeping(1.5, 15)})
    worker.double.until(lambda: (job_id, "pod-1") in worker.double.taken)
    worker.terminate()
    late = worker.double.give({"prompt": plain()})

    assert worker.wait(15) == 0
    ended = time.monotonic()
    done = worker.double.done(job_id)
    assert done is not None
    assert "output" in done.body
    assert ended - done.at < 1.5
    assert worker.double.done(late) is None
    assert late not in [one for one, _ in worker.double.taken]


def test_sigterm_with_a_poll_open_loses_no_job(workers: Workers) -> None:
    """With free slots a poll is open still: a job handed out by it is run before the end."""
    worker = workers.many
    worker.wait_polling()
    ids = [worker.double.give({"prompt": sleeping(1.0, 10)}) for _ in range(2)]
    worker.double.until(lambda: len({*ids} & {one for one, _ in worker.double.taken}) == 2)
    worker.wait_polling()
    worker.terminate()
    time.sleep(0.2)  # the signal is taken before the job comes
    ids.append(worker.double.give({"prompt": plain()}))

    assert worker.wait(20) == 0
    taken = {one for one, _ in worker.double.taken}
    for job_id in ids:
        posted = worker.double.done(job_id)
        assert (posted is not None) == (job_id in taken)
        assert posted is None or "output" in posted.body
