"""Every way a job can fail, as one tree of exceptions that carry data.

    HandlerError
    ├── CallerError              blame caller: sending the same again fails again
    │   ├── InvalidPayload       400 invalid_payload      body is no JSON, or not of the schema
    │   ├── InvalidWorkflow      400 invalid_workflow     graph refused, every fault in details
    │   ├── NoOutputNode         400 no_output_node       nothing in the graph saves anything
    │   ├── WorkflowFormatUi     400 workflow_format_ui   "Save" format where "Export (API)" is due
    │   ├── InputFailed          400 input_failed         a media input cannot be had or decoded
    │   ├── UrlNotAllowed        400 url_not_allowed      the address policy refuses the URL
    │   ├── ForeignOrigin        403 foreign_origin       a web page of another site sent it
    │   ├── ConversionFailed     422 conversion_failed    an output cannot be had in that format
    │   ├── TooLongToAnswer      422 too_long_to_answer   the connection would be cut before the end
    │   ├── ResultTooLarge       422 result_too_large     more than the platform's answers can hold
    │   ├── ResultGone           410 result_gone          the job is over, its result is not kept
    │   ├── NotFound             404 not_found            no such route or job
    │   ├── MethodNotAllowed     405 method_not_allowed
    │   ├── NotAcceptable        406 not_acceptable       no output is of the accepted type
    │   ├── Conflict             409 conflict             the same id or key, another payload
    │   ├── PayloadTooLarge      413 payload_too_large
    │   ├── UnsupportedMediaType 415 unsupported_media_type
    │   ├── RangeNotSatisfiable  416 range_not_satisfiable a part of an output that is not there
    │   └── JobCancelled         499 cancelled            somebody asked for it
    ├── ExecutionFailed          500 execution_error      a node raised
    ├── PlatformError            blame platform: another try may do
    │   ├── QueueFull            429 queue_full
    │   ├── InternalFault        500 internal_error       a fault of ours
    │   ├── EngineDied           502 engine_died          ComfyUI ended under the job
    │   ├── EngineRefused        502 engine_refused       ComfyUI answered out of protocol
    │   ├── UploadFailed         502 upload_failed        a storage did not take an output
    │   ├── WorkerLost           502 worker_lost          our process ended under the job
    │   ├── StateUnavailable     503 state_unavailable    where state is kept does not answer
    │   ├── NotReady             503 not_ready            booting, restarting or unhealthy
    │   ├── Draining             503 draining
    │   ├── QueueTimedOut        503 queue_timed_out      waited too long for the engine
    │   ├── TimedOut             504 timed_out            the job's total time is over
    │   ├── AnswerTooLate        504 answer_too_late      the connection is about to be cut
    │   └── Stalled              504 stalled              the engine made no progress for too long
    └── BootFailed               503 boot_failed          the engine cannot be started here

An exception knows nothing of HTTP frameworks: `status` is the number an HTTP adapter
answers, other adapters read `code`, `blame` and `retryable`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

Blame = Literal["caller", "image", "platform"]


class HandlerError(Exception):
    """The root: a message for people and the fields of the error envelope.

    Attributes:
        code: stable word that programs match.
        status: HTTP status.
        blame: whose fault it is: the caller's request, the image, or the platform.
        retryable: whether the same request may succeed later.
        location: dotted path into the request, `prompt.3.inputs.image`.
        node_id, node_title, class_type: the node, where one is concerned.
        hint: what to do about it.
        details: further facts, JSON-safe.
        log_tail: the engine's last lines.
        retry_after_s: seconds to wait before another try, where known.
        stats: figures of the job that it ended; None for an error of no job.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    default_blame: ClassVar[Blame] = "platform"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        location: str | None = None,
        node_id: str | None = None,
        node_title: str | None = None,
        class_type: str | None = None,
        hint: str | None = None,
        details: Any = None,
        log_tail: list[str] | None = None,
        blame: Blame | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.location = location
        self.node_id = node_id
        self.node_title = node_title
        self.class_type = class_type
        self.hint = hint
        self.details = details
        self.log_tail = log_tail
        self.blame: Blame = blame or self.default_blame
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after_s = retry_after_s
        self.stats: dict[str, Any] | None = None

    def at(self, location: str, node_id: str, class_type: str, title: str | None = None) -> Self:
        """Name the node and the place in the request, for a fault found further down."""
        self.location = self.location or location
        self.node_id = self.node_id or node_id
        self.class_type = self.class_type or class_type
        self.node_title = self.node_title or title
        return self

    def with_stats(self, stats: dict[str, Any]) -> Self:
        """Add the figures of a job; to a copy where another job ended by the same error."""
        error = self if self.stats is None else self.detached()
        error.stats = stats
        return error

    def detached(self) -> Self:
        """Give a copy for a record: without the traceback, whose frames hold the whole request."""
        copy = type(self).__new__(type(self))
        copy.args = self.args
        copy.__dict__.update(self.__dict__)
        return copy

    def envelope(self) -> dict[str, Any]:
        """Give the JSON body of an error, the same on every platform.

        It has `stats` where a job ended by it.
        `message` and `statusCode` repeat `error` and the status: clients of comfyui-api read them.
        """
        told: dict[str, Any] = {
            "error": self.message,
            "location": self.location,
            "code": self.code,
            "blame": self.blame,
            "retryable": self.retryable,
            "node_id": self.node_id,
            "node_title": self.node_title,
            "class_type": self.class_type,
            "hint": self.hint,
            "details": self.details,
            "log_tail": self.log_tail,
            "message": self.message,
            "statusCode": self.status,
        }
        return told if self.stats is None else {**told, "stats": self.stats}


class CallerError(HandlerError):
    """The request is at fault."""

    default_blame = "caller"
    status = 400


class InvalidPayload(CallerError):
    """The body is no JSON, or does not fit the schema."""

    code = "invalid_payload"


class InvalidWorkflow(CallerError):
    """The graph is refused; `details` lists every fault."""

    code = "invalid_workflow"


class NoOutputNode(CallerError):
    """Nothing in the graph saves anything."""

    code = "no_output_node"


class WorkflowFormatUi(CallerError):
    """The graph is in the format of ComfyUI's "Save", not of "Export (API)"."""

    code = "workflow_format_ui"


class InputFailed(CallerError):
    """A media input cannot be fetched, or is not what the node loads."""

    code = "input_failed"


class UrlNotAllowed(CallerError):
    """The outgoing address policy refuses the URL."""

    code = "url_not_allowed"


class ForeignOrigin(CallerError):
    """A web page of another site sent the request through its visitor's browser."""

    code = "foreign_origin"
    status = 403

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="ALLOW_ORIGINS names the hosts that may")


class ConversionFailed(CallerError):
    """An output cannot be converted as asked."""

    code = "conversion_failed"
    status = 422


class TooLongToAnswer(CallerError):
    """The run takes longer than the platform keeps a caller's connection; nothing was begun."""

    code = "too_long_to_answer"
    status = 422


class ResultTooLarge(CallerError):
    """The result is larger than what the platform brings to its caller."""

    code = "result_too_large"
    status = 422


class ResultGone(CallerError):
    """The job is over, and its result is not kept any more."""

    code = "result_gone"
    status = 410


class NotFound(CallerError):
    """There is no such route, job or file."""

    code = "not_found"
    status = 404


class MethodNotAllowed(CallerError):
    """The route exists for another method."""

    code = "method_not_allowed"
    status = 405


class NotAcceptable(CallerError):
    """No output is of the media type that the caller accepts."""

    code = "not_acceptable"
    status = 406


class Conflict(CallerError):
    """The same id or idempotency key was sent with another payload."""

    code = "conflict"
    status = 409


class PayloadTooLarge(CallerError):
    """The body is over `MAX_BODY_SIZE_MB`."""

    code = "payload_too_large"
    status = 413


class UnsupportedMediaType(CallerError):
    """The body is not JSON by its content type."""

    code = "unsupported_media_type"
    status = 415


class RangeNotSatisfiable(CallerError):
    """A part of an output was asked for that is behind its end."""

    code = "range_not_satisfiable"
    status = 416


class JobCancelled(CallerError):
    """Somebody asked for the job to stop, or its caller went away."""

    code = "cancelled"
    status = 499


class ExecutionFailed(HandlerError):
    """A node raised while the graph ran."""

    code = "execution_error"
    default_blame = "caller"


class PlatformError(HandlerError):
    """The machine or the engine is at fault; another try may do."""

    default_retryable = True


class QueueFull(PlatformError):
    """As many jobs wait as `MAX_QUEUE_DEPTH` allows."""

    code = "queue_full"
    status = 429


class InternalFault(PlatformError):
    """A fault of ours; the log has the traceback."""

    default_retryable = False

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Give the fault of an unforeseen exception, without its text, which may tell much."""
        what = f"{type(error).__name__}: {error.strerror}" if isinstance(error, OSError) else ""
        fault = cls(f"internal fault: {what or type(error).__name__}", hint="see the log")
        fault.__cause__ = error
        return fault


class EngineDied(PlatformError):
    """The engine's process ended while it had the job."""

    code = "engine_died"
    status = 502


class EngineRefused(PlatformError):
    """The engine answered in a way its protocol does not have."""

    code = "engine_refused"
    status = 502


class UploadFailed(PlatformError):
    """A storage did not take an output; the run itself was good, and its outputs are kept."""

    code = "upload_failed"
    status = 502


class WorkerLost(PlatformError):
    """The worker that had the job ended without a word."""

    code = "worker_lost"
    status = 502


class StateUnavailable(PlatformError):
    """Where records and outputs are kept does not answer, or not as it must."""

    code = "state_unavailable"
    status = 503


class NotReady(PlatformError):
    """The engine is booting, restarting, or given up."""

    code = "not_ready"
    status = 503


class Draining(PlatformError):
    """The server is on its way down and takes no new job."""

    code = "draining"
    status = 503


class QueueTimedOut(PlatformError):
    """The job waited for the engine longer than its limit."""

    code = "queue_timed_out"
    status = 503


class TimedOut(PlatformError):
    """The job's total time is over."""

    code = "timed_out"
    status = 504


class AnswerTooLate(PlatformError):
    """The platform is about to cut the caller's connection, and the job is not over."""

    code = "answer_too_late"
    status = 504


class Stalled(PlatformError):
    """The engine lives and makes no progress."""

    code = "stalled"
    status = 504


class BootFailed(HandlerError):
    """The engine cannot be started: the preflight or the process failed.

    `retryable` where another start may do: the process ended, or was too slow.
    """

    code = "boot_failed"
    status = 503
