"""What a remote job gave, in whatever form, and how it becomes files here."""

from __future__ import annotations

import base64
import hashlib

import pytest

from handler.engine.memory import PIXEL
from local_server.remote.download import Fetch
from local_server.remote.faults import Truncated
from local_server.remote.result import Result, Thing, leaf, result_of, save

ENCODED = base64.b64encode(PIXEL).decode()
SHA = hashlib.sha256(PIXEL).hexdigest()


def facts(**keys):
    """Give an entry of `outputs`."""
    return {"node_id": "2", "title": "t", "kind": "image", "filename": "job_a.png", **keys}


async def brought(result, folder, fetch=None):
    """Save a result; give what came."""
    return [one async for one in save(result, folder, fetch or Fetch())]


async def test_our_answer_is_saved(tmp_path):
    """Files by their bytes, texts as they are; never over what is there."""
    answer = {
        "id": "job",
        "images": [ENCODED, ENCODED],
        "outputs": [
            facts(sha256=SHA),
            facts(kind="text", text="said", filename="t.txt"),
            facts(filename="job_a.png"),
        ],
        "stats": {"a": 1},
        "engine": None,
    }
    result = result_of(answer)
    saved = await brought(result, tmp_path / "out")

    assert [one.path and one.path.name for one in saved] == ["a.png", None, "a-2.png"]
    assert (saved[1].text, saved[1].title) == ("said", "t")
    assert saved[0].path.read_bytes() == PIXEL
    assert (result.stats, result.engine) == ({"a": 1}, {})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-2.png", "a.png"]


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ({"images": [ENCODED], "filenames": ["x.png"]}, ["x.png"]),
        ({"images": [{"filename": "w.png", "type": "base64", "data": ENCODED}]}, ["w.png"]),
        ({"images": [f"data:image/png;base64,{ENCODED}"]}, ["output.png"]),
        ({"status": "success_no_images", "images": [], "texts": ["only"]}, [None]),
        (
            {"images": [], "videos": [{"filename": "v.mp4", "type": "base64", "data": ENCODED}]},
            ["v.mp4"],
        ),
    ],
)
async def test_answers_of_others_are_saved(tmp_path, answer, names):
    """comfyui-api's, and worker-comfyui's with what ours adds to it."""
    saved = await brought(result_of(answer), tmp_path)
    assert [one.path and one.path.name for one in saved] == names


async def test_the_items_of_a_stream_are_one_answer(tmp_path):
    """Outputs that came early, the rest, and the answer without them last."""
    items = [
        {"type": "output", "node_id": "2", "filename": "job_a.png", "data": ENCODED, "bytes": 1},
        {"type": "output", "node_id": "3", "filename": None, "text": "said", "kind": "text"},
        {
            "type": "result",
            "id": "job",
            "outputs": [
                facts(sha256=SHA, text=None),
                {"node_id": "3", "filename": None, "text": "said", "title": "words"},
            ],
        },
    ]
    saved = await brought(result_of(items), tmp_path)
    assert [(one.path and one.path.name, one.text) for one in saved] == [
        ("a.png", None),
        (None, "said"),
    ]
    alone = await brought(result_of(items[:2]), tmp_path)
    assert [one.text for one in alone] == [None, "said"]


async def test_what_is_not_what_was_promised_is_refused(tmp_path):
    """And nothing of it is left behind."""
    for thing, said in (
        (Thing(facts(sha256="0" * 64), encoded=ENCODED), "is not what the worker made"),
        (Thing(facts(), encoded="***"), "no base64"),
        (Thing(facts()), "came without its bytes"),
        (Thing(facts(), path="/jobs/a/outputs/b"), "no server to ask"),
    ):
        with pytest.raises(Truncated, match=said):
            await brought(Result("job", [thing]), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Truncated, match="no object but str"):
        result_of("hello")
    with pytest.raises(Truncated) as caught:
        await brought(
            result_of([{"type": "output", "filename": "a", "omitted": "too large"}]), tmp_path
        )
    assert caught.value.hint == "too large"


async def test_an_output_in_a_store_of_its_own_is_told_by_its_url(tmp_path):
    """s3:// is nothing that anybody could fetch without keys."""
    answer = {"images": ["s3://b/a.png"], "outputs": [facts(url="s3://b/a.png", uploads=[])]}
    (saved,) = await brought(result_of(answer), tmp_path)
    assert (saved.path, saved.url) == (None, "s3://b/a.png")


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("job_a.png", "a.png"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\x.png", "x.png"),
        ("/abs/..", "output"),
        ("", "output"),
        (".bashrc", "bashrc"),
        ("-rf", "rf"),
        ("a\x9b2J.png", "a_2J.png"),
        ("a\n\x1b[2J.png", "a__[2J.png"),
        ("café.png", "café.png"),
        ("x" * 400 + ".png", "x" * 176 + ".png"),
        ("é" * 400, "é" * 90),
    ],
)
def test_a_name_leads_nowhere_else(name, made):
    """A server says it, and it may be any."""
    assert leaf(name, "job") == made
