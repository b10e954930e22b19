"""Calls of Modal functions by id, and who cancelled an input: what we need of its SDK."""

from __future__ import annotations

import asyncio
import builtins
import logging
from typing import TYPE_CHECKING, Any, Protocol

import modal
from modal import exception

from handler.errors import JobCancelled, NotFound, PlatformError, ResultGone, TimedOut, WorkerLost

if TYPE_CHECKING:
    from handler.errors import HandlerError

log = logging.getLogger("comfyfn.modal")


class Calls(Protocol):
    """Jobs that are calls of their own: they outlast the request that began them."""

    async def spawn(self, payload: dict[str, Any], key: str | None) -> str:
        """Begin one, and give its id."""
        ...

    async def poll(self, call_id: str, timeout_s: float = 0) -> dict[str, Any] | None:
        """Give what came of it: an answer or an error's envelope; None while it runs.

        Raises:
            NotFound, ResultGone, PlatformError: there is no such call, or its result is not kept.
        """
        ...

    async def cancel(self, call_id: str) -> None:
        """Stop it, wherever it is.

        Raises:
            NotFound, PlatformError: there is no such call.
        """
        ...


class ModalCalls:
    """The port, done by Modal.

    Args:
        method: the remote `run`.
    """

    def __init__(self, method: Any) -> None:
        self._method = method

    async def spawn(self, payload: dict[str, Any], key: str | None) -> str:
        """Begin one; documented at the port."""
        try:
            call = await self._method.spawn.aio(payload, key)
        except exception.Error as error:
            raise _as_ours(error) from error
        return str(call.object_id)

    async def poll(self, call_id: str, timeout_s: float = 0) -> dict[str, Any] | None:
        """Ask for it; documented at the port."""
        try:
            call: Any = modal.FunctionCall.from_id(call_id)
            found = await call.get.aio(timeout=timeout_s)
        except (exception.OutputExpiredError, exception.FunctionTimeoutError) as error:
            return _ended(error)
        except (exception.TimeoutError, builtins.TimeoutError):
            return None
        except (exception.InputCancellation, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return _ended(error)
        except exception.Error as error:
            return _ended(error)
        except Exception as error:  # noqa: BLE001  # the call's own, which it gives back
            return _ended(error)
        return found if isinstance(found, dict) else {"result": found}

    async def cancel(self, call_id: str) -> None:
        """Stop it; documented at the port."""
        try:
            call: Any = modal.FunctionCall.from_id(call_id)
            await call.cancel.aio()
        except exception.Error as error:
            raise _as_ours(error) from error


def _ended(error: BaseException) -> dict[str, Any]:
    """Tell how a call ended that gave no answer.

    Raises:
        NotFound, ResultGone, PlatformError: it is not known how.
    """
    fault = _as_ours(error)
    if isinstance(fault, JobCancelled | TimedOut | WorkerLost):
        return fault.envelope()
    raise fault from error


def _as_ours(error: BaseException) -> HandlerError:
    if isinstance(error, exception.NotFoundError | exception.InvalidError):
        return NotFound("Modal knows no such call", hint="the id is that of the 202")
    if isinstance(error, exception.OutputExpiredError):
        return ResultGone("the result is not kept any more", hint="Modal keeps it for a week")
    if isinstance(error, exception.FunctionTimeoutError):
        return TimedOut("Modal ended the call: it took too long", hint="raise COMFYFN_TIMEOUT")
    if isinstance(error, exception.InputCancellation | asyncio.CancelledError):
        return JobCancelled("the call was cancelled")
    if isinstance(error, exception.RemoteError) and not str(error).strip():
        return JobCancelled("the call was cancelled")
    if isinstance(error, exception.ServiceError | exception.ConnectionError):
        return PlatformError("Modal does not answer", retryable=True)
    log.warning("a call ended without an answer: %r", error)
    return WorkerLost(f"the call ended without an answer: {type(error).__name__}", retryable=True)


def cancelled_by_caller(input_id: str | None) -> bool:
    """Tell whether the caller has cancelled an input that is being cancelled.

    A container that is taken away cancels all of its inputs, too. The SDK tells the difference
    nowhere but in its own books; without them, whoever cancels is taken for the caller.
    """
    from modal._runtime import container_io_manager as runtime

    manager = getattr(runtime, "_ContainerIOManager", None)
    books = getattr(getattr(manager, "_singleton", None), "current_inputs", None) or {}
    context = books.get(input_id)
    return bool(getattr(context, "_cancel_issued", True))
