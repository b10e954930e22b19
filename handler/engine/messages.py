"""Turns one raw WebSocket frame of ComfyUI into a typed message.

Pure, and never raises: what cannot be understood becomes `Unknown`. It runs for every frame of
every job, so it checks what `execution.py` relies on and no more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

_EVENT_PREVIEW = 1
_EVENT_PREVIEW_WITH_METADATA = 4
_IMAGE_MIMES = {1: "image/jpeg", 2: "image/png"}


@dataclass(frozen=True, slots=True)
class Status:
    """The queue changed, or the connection was opened.

    Attributes:
        queue_remaining: prompts that wait or run, of all clients.
        sid: the client id, only in the first message of a connection.
    """

    queue_remaining: int
    sid: str | None


@dataclass(frozen=True, slots=True)
class ExecutionStart:
    """A prompt left the queue; `at_ms` is Unix time by the engine's clock, 0 where not told."""

    prompt_id: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class ExecutionCached:
    """These nodes of the prompt will not run."""

    prompt_id: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Executing:
    """A node begins, or with `node` None the prompt is over and in the history.

    Attributes:
        display_node: the visible node, where `node` was made by expanding it.
        prompt_id: None in the message that greets a reconnected client.
    """

    node: str | None
    display_node: str | None
    prompt_id: str | None


@dataclass(frozen=True, slots=True)
class Progress:
    """A node counted a step."""

    prompt_id: str | None
    node: str
    value: float
    max: float


class NodeState(NamedTuple):
    """One node in a `ProgressState`: a named tuple, for there are many in each such frame."""

    node: str
    display_node: str | None
    value: float
    max: float


@dataclass(frozen=True, slots=True)
class ProgressState:
    """Where all nodes started so far stand; only those that counted a step are kept."""

    prompt_id: str
    nodes: tuple[NodeState, ...]


@dataclass(frozen=True, slots=True)
class Executed:
    """A node is done; `output` is its UI output, None for a cached node that has none."""

    prompt_id: str
    node: str
    display_node: str | None
    output: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ExecutionSuccess:
    """All nodes ran; the history entry may follow some milliseconds later."""

    prompt_id: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """A node raised; `exception_message` is as sent, with its trailing newline."""

    prompt_id: str
    node_id: str
    node_type: str
    exception_type: str
    exception_message: str
    traceback: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExecutionInterrupted:
    """The prompt was stopped on request."""

    prompt_id: str
    node_id: str | None
    node_type: str | None


@dataclass(frozen=True, slots=True)
class PreviewFrame:
    """A picture; the ids are None in the older form of the frame (event type 1)."""

    prompt_id: str | None
    node: str | None
    display_node: str | None
    mime: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FeatureFlags:
    """What the engine's protocol can do."""

    flags: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A frame that this module does not know or cannot read.

    Attributes:
        kind: the message type, or `binary 3`; empty where the frame has none.
        reason: what is wrong with it, empty where only the type is unknown.
    """

    kind: str
    reason: str = ""


Message = (
    Status
    | ExecutionStart
    | ExecutionCached
    | Executing
    | Progress
    | ProgressState
    | Executed
    | ExecutionSuccess
    | ExecutionError
    | ExecutionInterrupted
    | PreviewFrame
    | FeatureFlags
    | Unknown
)


def parse(frame: str | bytes) -> Message:
    """Read one frame as it came from the socket, text or binary."""
    if isinstance(frame, bytes):
        return _parse_binary(frame)
    try:
        message = loads(frame)
    except ValueError as error:
        return Unknown("", f"no JSON: {error}")
    if not isinstance(message, dict):
        return Unknown("", "not an object")
    return from_pair(message.get("type"), message.get("data"))


def from_pair(kind: object, data: object) -> Message:
    """Read a message that is already JSON, as `status.messages` of a history entry has them."""
    if not isinstance(kind, str):
        return Unknown("", "no type")
    reader = _READERS.get(kind)
    if reader is None:
        return Unknown(kind)
    if not isinstance(data, dict):
        return Unknown(kind, "data is not an object")
    try:
        return reader(data)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return Unknown(kind, f"{type(error).__name__}: {error}")


def loads(text: str | bytes) -> Any:
    """Read JSON as Python's own writer makes it, which ComfyUI uses.

    Half a surrogate pair (a file name that is no UTF-8 has them) becomes U+FFFD: no answer of ours
    could carry it.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # NaN, Infinity and lone surrogates are no JSON, yet Python writes and reads them.
        try:
            return _writable(json.loads(text))
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_writable(item) for item in value]
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    return value


def _parse_binary(frame: bytes) -> Message:
    event = int.from_bytes(frame[:4], "big")
    kind = f"binary {event}"
    if len(frame) < 8:
        return Unknown(kind, "too short")
    size = int.from_bytes(frame[4:8], "big")
    if event == _EVENT_PREVIEW:
        mime = _IMAGE_MIMES.get(size)
        if mime is None:
            return Unknown(kind, f"image type {size}")
        return PreviewFrame(None, None, None, mime, frame[8:])
    if event != _EVENT_PREVIEW_WITH_METADATA:
        return Unknown(kind)
    try:
        told = loads(frame[8 : 8 + size])
        return PreviewFrame(
            _text(told["prompt_id"]),
            _text(told["node_id"]),
            _text_or_none(told.get("display_node_id")),
            _text(told.get("image_type", "image/jpeg")),
            frame[8 + size :],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Unknown(kind, f"{type(error).__name__}: {error}")


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{type(value).__name__} for a string")
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _number(value: Any) -> float:
    if type(value) is not int and type(value) is not float:
        raise TypeError(f"{type(value).__name__} for a number")
    return value


def _at_ms(data: dict[str, Any]) -> int:
    return int(_number(data.get("timestamp", 0)))


def _status(data: dict[str, Any]) -> Status:
    remaining = data["status"]["exec_info"]["queue_remaining"]
    return Status(int(_number(remaining)), _text_or_none(data.get("sid")))


def _execution_start(data: dict[str, Any]) -> ExecutionStart:
    return ExecutionStart(_text(data["prompt_id"]), _at_ms(data))


def _execution_cached(data: dict[str, Any]) -> ExecutionCached:
    return ExecutionCached(_text(data["prompt_id"]), tuple(map(_text, data["nodes"])))


def _executing(data: dict[str, Any]) -> Executing:
    return Executing(
        _text_or_none(data["node"]),
        _text_or_none(data.get("display_node")),
        _text_or_none(data.get("prompt_id")),
    )


def _progress(data: dict[str, Any]) -> Progress:
    return Progress(
        _text_or_none(data.get("prompt_id")),
        _text(data["node"]),
        _number(data["value"]),
        _number(data["max"]),
    )


def _progress_state(data: dict[str, Any]) -> ProgressState:
    # Nodes without steps go from 0 of 1 to 1 of 1, and stay listed to the end of the run.
    counting = tuple(
        NodeState(
            _text(node_id),
            _text_or_none(state.get("display_node_id")),
            _number(state["value"]),
            _number(state["max"]),
        )
        for node_id, state in data["nodes"].items()
        if state["value"] and not (state["max"] == 1 and state.get("state") == "finished")
    )
    return ProgressState(_text(data["prompt_id"]), counting)


def _executed(data: dict[str, Any]) -> Executed:
    output = data["output"]
    if output is not None and not isinstance(output, dict):
        raise TypeError("output is not an object")
    return Executed(
        _text(data["prompt_id"]),
        _text(data["node"]),
        _text_or_none(data.get("display_node")),
        output,
    )


def _execution_success(data: dict[str, Any]) -> ExecutionSuccess:
    return ExecutionSuccess(_text(data["prompt_id"]), _at_ms(data))


def _execution_error(data: dict[str, Any]) -> ExecutionError:
    # Lenient beyond the id: an end must not be missed for an odd detail.
    traceback = data.get("traceback")
    return ExecutionError(
        _text(data["prompt_id"]),
        str(data.get("node_id") or ""),
        str(data.get("node_type") or ""),
        str(data.get("exception_type") or ""),
        str(data.get("exception_message") or ""),
        tuple(map(str, traceback)) if isinstance(traceback, list) else (),
    )


def _execution_interrupted(data: dict[str, Any]) -> ExecutionInterrupted:
    node_id, node_type = data.get("node_id"), data.get("node_type")
    return ExecutionInterrupted(
        _text(data["prompt_id"]),
        None if node_id is None else str(node_id),
        None if node_type is None else str(node_type),
    )


_READERS: dict[str, Callable[[dict[str, Any]], Message]] = {
    "status": _status,
    "execution_start": _execution_start,
    "execution_cached": _execution_cached,
    "executing": _executing,
    "progress": _progress,
    "progress_state": _progress_state,
    "executed": _executed,
    "execution_success": _execution_success,
    "execution_error": _execution_error,
    "execution_interrupted": _execution_interrupted,
    "feature_flags": FeatureFlags,
}
