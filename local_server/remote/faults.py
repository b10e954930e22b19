"""What goes wrong far away, as our errors: envelopes, bare statuses, silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import orjson

from handler.errors import Blame, HandlerError, PlatformError, TimedOut
from handler.stored import StoredError

if TYPE_CHECKING:
    import httpx

LONGEST_SAID = 300
_TEXTS = ("location", "node_id", "node_title", "class_type", "hint")
_MEANING = {
    401: "the key is missing or is not accepted",
    403: "the key may not do this, or the address is refused",
    404: "there is nothing of that name",
    413: "the request is too large",
}


class Unreachable(PlatformError):
    """Nobody answers there."""

    code = "unreachable"
    status = 503


class GaveUp(TimedOut):
    """The job lasted longer than we would wait."""


class Truncated(PlatformError):
    """What was fetched is not what was promised."""

    code = "truncated"
    status = 502


def failure_of(told: dict[str, Any]) -> HandlerError:
    """Make an error of an envelope; of any JSON with an `error`, as well as it goes.

    RunPod's SDK puts the text of an exception into `error` as JSON of its own.
    """
    error = told.get("error")
    if isinstance(error, str) and error.startswith("{") and "error_message" in error:
        error = _loaded(error)
    if isinstance(error, dict):
        error = error.get("error_message") or error.get("message") or error
    said = error or told.get("message") or told.get("detail") or "the job failed"
    text = said if isinstance(said, str) else orjson.dumps(said, default=str).decode()
    # What others call `details` or `location` is shown as well as it goes.
    return StoredError({**told, **_as_told(told), "error": text})


def _as_told(told: dict[str, Any]) -> dict[str, Any]:
    """Give what an envelope has beside its message, each of the kind that we know it by."""
    code, status, log = told.get("code"), told.get("statusCode"), told.get("log_tail")
    texts = {name: told[name] for name in _TEXTS if told.get(name) is not None}
    return {
        **{name: str(value)[:LONGEST_SAID] for name, value in texts.items()},
        "code": code if isinstance(code, str) else "execution_error",
        "blame": told["blame"] if told.get("blame") in get_args(Blame) else None,
        "statusCode": status if isinstance(status, int) and 100 <= status < 1000 else 500,
        "log_tail": list(map(str, log)) if isinstance(log, list) else None,
    }


def _loaded(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return text


def failure_of_response(response: httpx.Response, where: str) -> HandlerError:
    """Make an error of an HTTP answer that is none of success; its body has been read."""
    body = json_of(response)
    status = response.status_code
    if isinstance(body, dict) and isinstance(body.get("code"), str) and "error" in body:
        return failure_of({"statusCode": status, **body})
    said = ""
    if isinstance(body, dict):
        told = next((body[k] for k in ("error", "message", "detail", "title") if body.get(k)), "")
        said = str(told)[:LONGEST_SAID]
        if body.get("location"):
            said += f" ({body['location']})"
    meaning = said or _MEANING.get(status) or response.reason_phrase or "no reason is given"
    caller = 400 <= status < 500
    told = {
        "error": f"{where} answers {status}: {meaning}",
        "code": "invalid_payload" if caller else "platform_error",
        "blame": "caller" if caller else "platform",
        "retryable": not caller,
        "statusCode": status,
    }
    if status in {401, 403}:
        told["hint"] = "the key's variable or --header says who you are"
    return failure_of(told)


def json_of(response: httpx.Response) -> Any:
    """Decode a body; None where it is no JSON."""
    try:
        return orjson.loads(response.content)
    except ValueError:
        return None


def describe(error: HandlerError) -> str:
    """Tell on one line what an error knows beside its message and its hint; "" for nothing."""
    facts = [f"code {error.code}", f"blame {error.blame}"]
    if error.node_id:
        names = ", ".join(filter(None, (error.node_title, error.class_type)))
        facts.append(f"node {error.node_id}" + (f" ({names})" if names else ""))
    if error.location:
        facts.append(f"at {error.location}")
    if error.retryable:
        facts.append("the same may succeed later")
    return ", ".join(facts)
