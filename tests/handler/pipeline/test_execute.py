"""Prepared -> Ran: what a run tells, noted and told to followers."""

from __future__ import annotations

import base64

import pytest
from worker import GRAPH, parts_in, received, until

from handler.engine.events import (
    Failed,
    Gone,
    Interrupted,
    NodeOutput,
    NodeProgress,
    NodesCached,
    NodeStarted,
    Preview,
    Started,
    Succeeded,
)
from handler.engine.memory import write_picture
from handler.errors import EngineDied, ExecutionFailed, JobCancelled
from handler.job import RECORD_TEXT_CHARS, Phase
from handler.pipeline.execute import Recorder, engine_prompt, judge_end
from handler.pipeline.stages import Prepared, Ran
from handler.pipeline.uploads import uploading
from handler.settings import Settings

IMAGES = {"images": [{"filename": "a.png"}]}


def recorder(home, graph=GRAPH, output_nodes=("2",), **keys):
    job = received(graph, **keys)
    job.job.wants_previews = job.request.previews
    job.job.enter(Phase.QUEUED)
    prepared = Prepared(job.request, graph, list(output_nodes))
    return Recorder(prepared, job.job, parts_in(home)), job.job


def events_of(job, kind):
    return [event.data for event in job._events if event.type == kind]


async def test_uploads_are_told_of_each_node_that_has_finished(made, store):
    """Before the run is over; of what follows, nothing goes twice."""
    parts, job = made(), received(http_upload={"url_prefix": store.url("/up")})
    picture = {"images": [write_picture(parts.engine.files, "x")]}
    async with uploading(job, parts) as uploads:
        record = Recorder(Prepared(job.request, GRAPH, ["2"], uploads), job.job, parts)
        record(NodeStarted("2"))
        record(NodeOutput("2", picture))
        await until(lambda: store.files)
        assert record.ran.end is None
    assert list(store.files) == ["/up/x_00001_.png"]


def test_everything_the_answer_needs_is_noted(tmp_path):
    """Times, cached nodes, outputs, the end."""
    record, job = recorder(tmp_path)
    end = Succeeded(1500)
    for event in (
        Started(1000),
        NodesCached(("1",)),
        NodeStarted("2"),
        NodeProgress("2", 1, 2),
        NodeOutput("2", IMAGES),
        NodeOutput("2.1", {}),
        end,
    ):
        record(event)

    ran = record.ran
    assert (ran.started_ms, ran.ended_ms, ran.cached, ran.end) == (1000, 1500, ("1",), end)
    assert ran.told == {"2": IMAGES, "2.1": {}}
    assert list(ran.node_ms) == ["2"]
    assert job.phase is Phase.RUNNING
    assert events_of(job, "output")[0] == {
        "node_id": "2",
        "title": "the picture",
        "output": IMAGES,
    }
    assert events_of(job, "output")[1]["title"] == ""


def test_the_first_run_after_a_boot_is_cold_and_nodes_are_counted(tmp_path):
    """The next one is warm."""
    job = received(GRAPH)
    parts = parts_in(tmp_path)
    parts.metrics.engine_changed("ready")
    job.job.created_at += 1
    prepared = Prepared(job.request, GRAPH, ["2"])
    first, second = (Recorder(prepared, job.job, parts) for _ in range(2))
    for event in (Started(1000), NodeStarted("1"), NodeStarted("2"), Succeeded(1500)):
        first(event)

    assert (first.ran.cold, second.ran.cold) == (True, False)
    assert parts.metrics.nodes.values == {("EmptyImage",): 1, ("SaveImage",): 1}


def test_a_node_that_starts_again_keeps_its_first_time(tmp_path):
    """Lazy nodes are started twice."""
    record, _ = recorder(tmp_path)
    record(NodeStarted("2"))
    first = record.ran.node_ms["2"]
    record.ran.node_ms["2"] = first - 1000
    record(NodeStarted("2"))

    assert record.ran.node_ms["2"] == first - 1000


def test_progress_is_throttled_but_every_node_is_told(tmp_path):
    """A thousand steps are no thousand events."""
    record, job = recorder(tmp_path)
    record(Started(1))
    record(NodeStarted("1"))
    for step in range(1000):
        record(NodeProgress("1", step, 1000))
    record(NodeStarted("2"))

    told = events_of(job, "progress")
    assert len(told) < 20
    assert [view["node_id"] for view in told][-1] == "2"
    assert job.progress == told[-1]
    assert told[-1]["title"] == "the picture"


def test_previews_are_told_to_who_asked_and_throttled(tmp_path):
    """As base64 with its media type."""
    record, job = recorder(tmp_path, previews=True)
    for _ in range(100):
        record(Preview("1", "image/jpeg", b"jpeg"))

    (told,) = events_of(job, "preview")
    assert told == {
        "node_id": "1",
        "mime": "image/jpeg",
        "data": base64.b64encode(b"jpeg").decode(),
    }


def test_previews_nobody_asked_for_are_dropped(tmp_path):
    """They cost nothing."""
    record, job = recorder(tmp_path)
    record(Preview("1", "image/jpeg", b"jpeg"))
    record(Preview(None, "image/jpeg", b"jpeg"))

    assert events_of(job, "preview") == []
    assert record.ran.frames == []


def test_pictures_of_an_output_node_are_outputs(tmp_path):
    """SaveImageWebsocket sends its result the way others send previews."""
    record, job = recorder(tmp_path, previews=True)
    record(Preview("2", "image/png", b"first"))
    record(Preview("2", "image/jpeg", b"second"))

    assert [(node, path.name, path.read_bytes()) for node, path in record.ran.frames] == [
        ("2", "2_00000.png", b"first"),
        ("2", "2_00001.jpg", b"second"),
    ]
    assert events_of(job, "preview") == []


@pytest.mark.parametrize("node_id", ["../../evil", "/etc/evil", "..", "a/b", "n\0l", "", "x" * 999])
def test_a_pictures_name_is_a_leaf_whatever_the_nodes_id_is(tmp_path, node_id):
    """Ids are the caller's; the picture still belongs to its node."""
    home = tmp_path / "home"
    record, _ = recorder(home, {node_id: GRAPH["2"]}, [node_id])
    record(Preview(node_id, "image/png", b"first"))
    record(Preview(node_id, "image/png", b"second"))

    into = home / "scratch" / "uid" / "frames"
    assert record.ran.fault is None
    assert [node for node, _ in record.ran.frames] == [node_id] * 2
    assert [path.parent for _, path in record.ran.frames] == [into] * 2
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        path for _, path in record.ran.frames
    )


def test_pictures_of_ids_that_are_alike_do_not_meet(tmp_path):
    """`5:8` and `5_8` have one safe name."""
    record, _ = recorder(tmp_path, {"5:8": GRAPH["2"], "5_8": GRAPH["2"]}, ["5:8", "5_8"])
    record(Preview("5:8", "image/png", b"first"))
    record(Preview("5_8", "image/png", b"second"))

    assert [(node, path.read_bytes()) for node, path in record.ran.frames] == [
        ("5:8", b"first"),
        ("5_8", b"second"),
    ]


def test_what_cannot_be_kept_is_noted_and_the_run_goes_on(tmp_path, caplog):
    """The engine's messages of other jobs come by the same way: nothing is raised into it."""
    record, _ = recorder(tmp_path)
    (tmp_path / "scratch" / "uid").write_bytes(b"where the folder should be")
    record(Preview("2", "image/png", b"picture"))
    record(Succeeded(5))

    assert isinstance(record.ran.fault, OSError)
    assert record.ran.frames == []
    assert record.ran.ended_ms == 5
    assert "not taken in" in caplog.text


def test_files_outside_of_the_jobs_folder_are_noted_for_removal(tmp_path):
    """Previews and what knows no subfolder; inputs are the caller's own."""
    record, job = recorder(tmp_path)
    own = {"filename": "a.png", "subfolder": "comfyfn-jobs/uid", "type": "output"}
    record(
        NodeOutput(
            "2",
            {
                "images": [own, {"filename": "p.png", "subfolder": "s", "type": "temp"}],
                "more": {"filename": "loose.png"},
                "shown": [{"filename": "mine.png", "type": "input"}],
                "bad": [{"filename": "../../evil.png", "type": "temp"}],
            },
        )
    )

    assert job.strays == {tmp_path / "temp" / "s" / "p.png", tmp_path / "output" / "loose.png"}


def test_long_texts_are_cut_for_followers_and_whole_for_the_answer(tmp_path):
    """Events are kept for an hour."""
    record, job = recorder(tmp_path)
    text = "x" * (RECORD_TEXT_CHARS + 1)
    record(NodeOutput("2", {"text": [text], "html": [{"body": text}]}))

    (told,) = events_of(job, "output")
    assert told["output"] == {"text": [text[:-1]], "html": [{"body": text[:-1]}]}
    assert record.ran.told["2"]["text"] == [text]


@pytest.mark.parametrize(
    ("keys", "limit"),
    [({}, 600.0), ({"timeouts": {"no_progress_s": 3}}, 3), ({"timeouts": {"total_s": 3}}, 600.0)],
)
def test_the_prompt_has_the_jobs_limit_and_extra_data(tmp_path, keys, limit):
    """Its own, else the operator's."""
    job = received(extra_data={"api_key_comfy_org": "k"}, **keys)
    parts = parts_in(tmp_path, Settings())
    prompt = engine_prompt(Prepared(job.request, GRAPH, ["2"]), "p", parts)

    assert (prompt.prompt_id, prompt.graph, prompt.no_progress_s) == ("p", GRAPH, limit)
    assert prompt.extra_data == {"api_key_comfy_org": "k"}
    assert engine_prompt(Prepared(received().request, GRAPH, []), "p", parts).extra_data == {}


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (Failed("2", "SaveImage", "ValueError", "bad"), ExecutionFailed),
        (Interrupted("2", "SaveImage"), JobCancelled),
        (Interrupted(None, None), JobCancelled),
        (Gone(), EngineDied),
    ],
)
def test_only_a_success_passes(tmp_path, end, error):
    """Every other end is an error; the node is named where there is one."""
    record, _ = recorder(tmp_path)
    record(end)
    assert record.ran.end is end
    with pytest.raises(error) as caught:
        judge_end(end, Ran(GRAPH, ["2"]))
    assert caught.value.node_id == getattr(end, "node_id", None)


def test_a_success_is_what_ran():
    """It goes on as it is."""
    ran = Ran(GRAPH, ["2"])
    assert judge_end(Succeeded(1), ran) is ran


def test_outputs_that_are_told_under_one_node_are_all_noted(tmp_path):
    """Those of a node that was expanded bear its name."""
    record, _ = recorder(tmp_path)
    record(NodeOutput("2", {"images": [{"filename": "a.png"}]}))
    record(NodeOutput("2", {"images": [{"filename": "b.png"}]}))

    names = [item["filename"] for item in record.ran.told["2"]["images"]]
    assert names == ["a.png", "b.png"]
