"""A captured job: a payload that can be run again, and what came of it.

`{"comfyfn": 1, "payload": {...}, "answered": {"status": ..., "outputs": [...]}}` is what is
captured. Read is more: a payload, a graph, a job of RunPod or of a queue of Salad, an answer that
repeats its request. Ids are left out, so that it is a job of its own; seeds stay.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from handler.errors import InvalidPayload
from handler.records import JOBS_FOLDER, TARGET_KINDS
from local_server.remote.compare import facts_of, pixels_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from handler.errors import HandlerError
    from local_server.remote.result import Saved

VERSION = 1
LEFT_OUT = "(left out)"
TOLD_ELSEWHERE = ("webhook", "webhook_v2", "webhook_secret", "webhook_extra", *TARGET_KINDS)
"""A second run is told and stored nowhere but here."""
_SECRETS = ("credentials", "extra_data")
_SECRET_INPUT = re.compile(
    r"^token$|(^|[_-])(api[_-]?key|(access|secret|private)_?key(_?id)?|password|passwd|passphrase|secret"
    r"|authorization|(auth|access|api|bearer|civitai|hf|refresh|session)_?token)$",
    re.IGNORECASE,
)
_CUT_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S*\.\.\.", re.IGNORECASE)
_LONGEST_URL = 1000
_RUN_FOLDER = re.compile(rf"({JOBS_FOLDER}/[0-9a-f]{{32}})/")
_ELIDED = re.compile(r"\.\.\. \(\d+ characters( of base64)?\)$|[?&][^=&\s]+=\.\.\.")


@dataclass(frozen=True, slots=True)
class Captured:
    """A job to be run again.

    Attributes:
        expected: the outputs of the first run with their hashes, where they are known.
        dropped: keys of the payload that are not sent again.
    """

    payload: dict[str, Any]
    expected: list[dict[str, Any]] = field(default_factory=list)
    dropped: tuple[str, ...] = ()


def read_captured(path: Path) -> Captured:
    """Read a captured job.

    Raises:
        InvalidPayload: it is none, or something that it needs is not in it any more.
    """
    try:
        told = orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InvalidPayload(f"no such file: {path}") from error
    except (OSError, ValueError) as error:
        raise InvalidPayload(f"{path} is no captured job: {error}") from error
    payload, answered = _parts(told)
    if payload is None:
        raise InvalidPayload(
            f"{path} holds no job",
            hint="a payload, a job of RunPod or Salad, or what --capture wrote; the record of a "
            "job (GET /jobs/{id}) never has its payload",
        )
    lost = _elided(payload, "")
    if lost:
        raise InvalidPayload(
            f"{path} has not all that the job needs: {lost} was left out of it",
            hint="answers repeat no media and no secrets; --capture keeps the media",
        )
    return _captured(payload, answered)


def _parts(told: Any) -> tuple[dict[str, Any] | None, Any]:
    """Find the payload, and what was answered."""
    if isinstance(told, list) and len(told) == 1:
        told = told[0]
    if not isinstance(told, dict):
        return None, None
    if isinstance(told.get("payload"), dict):
        return told["payload"], told.get("answered")
    if isinstance(told.get("prompt"), dict):
        return _as_asked(told), told
    if isinstance(told.get("workflow"), str):
        return told, told
    if isinstance(told.get("input"), dict | str):  # a job of RunPod or Salad
        return _called(told["input"]), told.get("output")
    if isinstance(told.get("workflow"), dict):
        return _called(told), told
    if told and all(isinstance(node, dict) and "class_type" in node for node in told.values()):
        return {"prompt": told}, None
    return None, None


def _as_asked(answer: dict[str, Any]) -> dict[str, Any]:
    """Undo what the first run did to the names of its files: its folder, and its id before them."""
    from handler.graph.rewrite import RUN_INPUT

    graph = {}
    for key, node in answer["prompt"].items():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if isinstance(inputs, dict):
            asked = {one: value for one, value in inputs.items() if one != RUN_INPUT}
            if isinstance(prefix := asked.get("filename_prefix"), str):
                asked["filename_prefix"] = _asked_prefix(prefix, answer.get("id"))
            node = {**node, "inputs": asked}  # noqa: PLW2901
        graph[key] = node
    return {**answer, "prompt": graph}


def _asked_prefix(prefix: str, job_id: Any) -> str:
    """Find what was asked: that which a run with this id makes exactly this prefix of."""
    from handler.graph.rewrite import output_prefix, safe_leaf

    run = _RUN_FOLDER.match(prefix)
    if run is None:
        return prefix
    folder, rest = run[1], prefix[run.end() :]
    if isinstance(job_id, str):
        name = safe_leaf(job_id)
        starts = [0, *(slash.end() for slash in re.finditer("/", rest))]
        for at in (at for at in reversed(starts) if rest.startswith(name, at)):
            asked = rest[:at] + rest[at + len(name) :].removeprefix("_")
            if asked and output_prefix(asked, folder=folder, request_id=job_id) == prefix:
                return asked
    return rest


def _called(given: Any) -> dict[str, Any] | None:
    from adapters.calls import read_call

    payload: Any = read_call(given).payload
    return payload if isinstance(payload, dict) else None


def _captured(payload: dict[str, Any], answered: Any) -> Captured:
    known = _known_keys()
    kept = {name: value for name, value in payload.items() if name in known}
    dropped = tuple(name for name in TOLD_ELSEWHERE if kept.pop(name, None) is not None)
    kept.pop("id", None)
    return Captured(kept, _expected(answered), dropped)


def _known_keys() -> set[str]:
    from handler.payload import PromptRequest

    return {*PromptRequest.model_fields, *TARGET_KINDS, "workflow", "input"}


def _expected(answered: Any) -> list[dict[str, Any]]:
    outputs = answered.get("outputs") if isinstance(answered, dict) else None
    if not isinstance(outputs, list):
        return []
    found = [dict(one) for one in outputs if isinstance(one, dict)]
    files = [one for one in found if not isinstance(one.get("text"), str)]
    images = answered.get("images")
    for facts, encoded in zip(files, images if isinstance(images, list) else (), strict=False):
        if isinstance(encoded, str) and "pixels" not in facts:
            facts["pixels"] = _encoded_pixels(encoded)
    return found


def _encoded_pixels(encoded: str) -> str | None:
    import io

    try:
        return pixels_of(io.BytesIO(base64.b64decode(encoded, validate=True)))
    except (binascii.Error, ValueError):
        return None


def _elided(value: Any, place: str) -> str:
    """Name the first text that something was left out of; "" for none."""
    if isinstance(value, str):
        cut = _CUT_URL.fullmatch(value) if len(value) < _LONGEST_URL else None
        return place if value == LEFT_OUT or cut or _ELIDED.search(value[-200:]) else ""
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
    found = (_elided(one, f"{place}.{key}".lstrip(".")) for key, one in parts)
    return next(filter(None, found), "")


# -- writing --------------------------------------------------------------------------------------


def write_captured(
    path: Path,
    payload: dict[str, Any],
    saved: list[Saved] | None = None,
    error: HandlerError | None = None,
) -> None:
    """Write a job to a file, without secrets; anew when it is over.

    Args:
        saved: what came of it.
        error: how it failed.
    """
    told: dict[str, Any] = {"comfyfn": VERSION, "payload": without_secrets(payload)}
    if saved is not None:
        told["answered"] = {"status": "succeeded", "outputs": [facts_of(one) for one in saved]}
    elif error is not None:
        told["answered"] = {"status": "failed", "error": error.envelope()}
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2, default=str) + b"\n")
    part.replace(path)


def without_secrets(payload: dict[str, Any]) -> dict[str, Any]:
    """Give a payload for a file: no credentials, targets and webhooks, no secrets in URLs."""
    kept = {
        name: value
        for name, value in payload.items()
        if name not in (*_SECRETS, *TOLD_ELSEWHERE, "id")
    }
    return {name: _tellable(value, name) for name, value in kept.items()}


def _tellable(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _tellable(one, str(key)) for key, one in value.items()}
    if isinstance(value, list):
        return [_tellable(one, name) for one in value]
    if not isinstance(value, str) or not value:
        return value
    if _SECRET_INPUT.search(name):
        return LEFT_OUT
    if "://" in value and not value.startswith("data:"):
        from handler.inputs.redact import urls_redacted

        return urls_redacted(value)
    return value
