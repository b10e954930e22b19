import json
import math
import struct

import orjson
import pytest

from handler.engine.messages import (
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    FeatureFlags,
    NodeState,
    PreviewFrame,
    Progress,
    ProgressState,
    Status,
    Unknown,
    from_pair,
    loads,
    parse,
)

JPEG = bytes.fromhex("ffd8ffe000104a46")
PNG = bytes.fromhex("89504e470d0a1a0a")


def text(kind, **data):
    return json.dumps({"type": kind, "data": data})


def preview(metadata, image=JPEG):
    head = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    return struct.pack(">II", 4, len(head)) + head + image


ERROR = {
    "prompt_id": "p",
    "node_id": "3",
    "node_type": "LoadImage",
    "exception_type": "OSError",
    "exception_message": "Truncated File Read\n",
    "traceback": ["..."],
    "current_inputs": {},
}

READ = [
    (text("status", status={"exec_info": {"queue_remaining": 2}}, sid="me"), Status(2, "me")),
    (text("status", status={"exec_info": {"queue_remaining": 0}}), Status(0, None)),
    (text("execution_start", prompt_id="p", timestamp=17), ExecutionStart("p", 17)),
    (text("execution_start", prompt_id="p"), ExecutionStart("p", 0)),
    (text("execution_cached", prompt_id="p", nodes=["1"]), ExecutionCached("p", ("1",))),
    (text("executing", prompt_id="p", node="1", display_node="1"), Executing("1", "1", "p")),
    (text("executing", prompt_id="p", node=None), Executing(None, None, "p")),
    (text("executing", node="1"), Executing("1", None, None)),
    (text("progress", prompt_id="p", node="1", value=1, max=3), Progress("p", "1", 1, 3)),
    (text("progress", node="1", value=1, max=3), Progress(None, "1", 1, 3)),
    (
        text("executed", prompt_id="p", node="3", display_node="2", output={"text": ["x"]}),
        Executed("p", "3", "2", {"text": ["x"]}),
    ),
    (text("executed", prompt_id="p", node="3", output=None), Executed("p", "3", None, None)),
    (text("execution_success", prompt_id="p", timestamp=18), ExecutionSuccess("p", 18)),
    (
        text("execution_error", **ERROR),
        ExecutionError("p", "3", "LoadImage", "OSError", "Truncated File Read\n", ("...",)),
    ),
    (text("execution_error", prompt_id="p"), ExecutionError("p", "", "", "", "", ())),
    (
        text("execution_interrupted", prompt_id="p", node_id="3", node_type="KSampler"),
        ExecutionInterrupted("p", "3", "KSampler"),
    ),
    (text("execution_interrupted", prompt_id="p"), ExecutionInterrupted("p", None, None)),
    (text("feature_flags", max_upload_size=1), FeatureFlags({"max_upload_size": 1})),
    (struct.pack(">II", 1, 1) + JPEG, PreviewFrame(None, None, None, "image/jpeg", JPEG)),
    (struct.pack(">II", 1, 2) + PNG, PreviewFrame(None, None, None, "image/png", PNG)),
    (
        preview(
            {"node_id": "3", "display_node_id": "2", "prompt_id": "p", "image_type": "image/png"},
            PNG,
        ),
        PreviewFrame("p", "3", "2", "image/png", PNG),
    ),
    (text("crystools.monitor", cpu=3), Unknown("crystools.monitor")),
    (struct.pack(">II", 3, 1) + b"1text", Unknown("binary 3")),
]


@pytest.mark.parametrize(("frame", "expected"), READ, ids=lambda value: str(value)[:60])
def test_each_kind_of_frame_gives_its_message(frame, expected):
    """A frame as the engine sends it becomes the message of its type."""
    assert expected == parse(frame)


MALFORMED = [
    "",
    "not json",
    "null",
    "[]",
    "{}",
    '{"type": 3, "data": {}}',
    '{"type": "executing"}',
    '{"type": "executing", "data": []}',
    "[" * 100_000,
    text("status", status=None),
    text("status", status={"exec_info": {"queue_remaining": "1"}}),
    text("execution_start"),
    text("execution_start", prompt_id=5),
    text("execution_start", prompt_id="p", timestamp="soon"),
    text("execution_success", prompt_id="p", timestamp=math.inf),
    text("execution_cached", prompt_id="p", nodes=[1]),
    text("execution_cached", prompt_id="p", nodes=None),
    text("executing", prompt_id="p"),
    text("executing", prompt_id="p", node=["1"]),
    text("progress", prompt_id="p", node=None, value=1, max=2),
    text("progress", prompt_id="p", node="1", value=None, max=2),
    text("progress", prompt_id="p", node="1", value=True, max=2),
    text("progress_state", prompt_id="p", nodes=[]),
    text("progress_state", prompt_id="p", nodes={"1": None}),
    text("progress_state", prompt_id="p", nodes={"1": {"value": 1}}),
    text("executed", prompt_id="p", node="1", output=[1]),
    text("executed", prompt_id="p", node="1"),
    text("execution_error", node_id="1"),
    b"",
    b"\0\0\0\1",
    struct.pack(">II", 1, 9) + JPEG,
    preview(b"not json"),
    preview({}),
    preview([]),
    preview({"prompt_id": "p", "node_id": 3}),
    struct.pack(">II", 4, 1 << 31) + b"{}",
    b"\xff" * 64,
]


@pytest.mark.parametrize("frame", MALFORMED, ids=lambda frame: str(frame)[:60])
def test_a_malformed_frame_is_unknown_and_says_why(frame):
    """Nothing that arrives raises; a known type with odd data tells its reason."""
    message = parse(frame)

    assert isinstance(message, Unknown)
    assert message.reason or message.kind.startswith("binary")


@pytest.mark.parametrize("frame", [frame for frame, _ in READ], ids=lambda frame: str(frame)[:60])
def test_no_truncated_frame_raises(frame):
    """Any beginning of a frame is read without an exception."""
    for length in range(len(frame)):
        parse(frame[:length])


def test_progress_state_keeps_the_nodes_that_count_steps():
    """Nodes that only go from not done to done are left out, for they come with each frame."""
    state = {"display_node_id": "9", "prompt_id": "p"}
    nodes = {
        "1": {"value": 1.0, "max": 1.0, "state": "finished", **state},
        "2": {"value": 0.0, "max": 1.0, "state": "running", **state},
        "3": {"value": 2, "max": 8, "state": "running", **state},
        "4": {"value": 8, "max": 8, "state": "finished", **state},
    }

    message = parse(text("progress_state", prompt_id="p", nodes=nodes))

    assert ProgressState("p", (NodeState("3", "9", 2, 8), NodeState("4", "9", 8, 8))) == message


def test_numbers_that_only_python_writes_are_read():
    """NaN in a node's output does not lose the output."""
    frame = '{"type": "executed", "data": {"prompt_id": "p", "node": "1", "output": {"v": [NaN]}}}'
    message = parse(frame)

    assert isinstance(message, Executed)
    assert message.output is not None
    assert math.isnan(message.output["v"][0])


@pytest.mark.parametrize(
    ("read", "text_"),
    [
        ('["\\ud800"]', ["\ufffd"]),
        ('["\\udcff.safetensors"]', ["\ufffd.safetensors"]),
        ('{"\\udcff": [{"a": "x\\ud83d"}]}', {"\ufffd": [{"a": "x\ufffd"}]}),
        ('["\\ud83d\\ude00 \\udc00", 1, null]', ["\U0001f600 \ufffd", 1, None]),
    ],
)
def test_half_pairs_of_surrogates_become_what_an_answer_can_carry(read, text_):
    """File names that are no UTF-8 come with them, and no JSON of ours could hold them."""
    assert loads(read) == text_
    assert orjson.loads(orjson.dumps(loads(read))) == text_


def test_loads_raises_value_error_for_what_is_no_json():
    """Callers have one exception to catch, for deep nesting as well."""
    for text_ in ("", "{", "[" * 100_000, b"\xff"):
        with pytest.raises(ValueError):
            loads(text_)


def test_pairs_of_a_history_entry_are_read_like_frames():
    """`status.messages` holds the same messages as the socket had."""
    assert ExecutionSuccess("p", 5) == from_pair(
        "execution_success", {"prompt_id": "p", "timestamp": 5}
    )
    assert Unknown("", "no type") == from_pair([], {})


def test_a_preview_is_short_in_logs():
    """The picture's bytes do not end up in a log line."""
    assert "ffd8" not in repr(parse(struct.pack(">II", 1, 1) + JPEG))
    assert "data=" not in repr(parse(struct.pack(">II", 1, 1) + JPEG))
