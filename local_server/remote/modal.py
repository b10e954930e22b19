"""A deployed Modal app, by Modal's own client: `spawn`, then its result is waited for.

The client knows who is asking: `modal setup` or MODAL_TOKEN_ID and MODAL_TOKEN_SECRET.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from handler.errors import HandlerError, InvalidPayload, JobCancelled, NotFound, TimedOut
from local_server.remote.base import named, stoppable
from local_server.remote.faults import Unreachable, failure_of
from local_server.remote.result import Result, result_of

if TYPE_CHECKING:
    from local_server.remote.base import Teller
    from local_server.remote.target import ModalTarget

LOOK_S = 5.0
MOST_SILENCE = 12
"""Questions in a row that were not answered, half a minute and more."""


class ModalRemote:
    """A class of an app.

    Args:
        target: its name.
        method: takes a payload and gives the answer, or the envelope of an error.
    """

    def __init__(self, target: ModalTarget, method: str = "run") -> None:
        self._target = target
        self._method = method

    async def close(self) -> None:
        """Modal's client is one for the process, and is closed with it."""

    async def run(self, payload: dict[str, Any], teller: Teller) -> Result:
        """Run a payload there; see `Remote`."""
        payload, _ = named(payload)
        teller.say("is sent")
        return await stoppable(self._spawn(payload), partial(self._followed, teller), self._cancel)

    async def _spawn(self, payload: dict[str, Any]) -> Any:
        modal = _modal()
        try:
            found = modal.Cls.from_name(self._target.app, self._target.cls)
            method = getattr(found(), self._method)
            return await method.spawn.aio(payload)
        except modal.Error as error:
            raise self._ours(modal, error) from error

    async def _followed(self, teller: Teller, call: Any) -> Result:
        modal = _modal()
        teller.say("queued or running (Modal tells no progress)")
        silence = 0
        while True:
            try:
                answer = await call.get.aio(timeout=LOOK_S)
                break
            except modal.exception.FunctionTimeoutError as error:
                raise TimedOut("Modal ended the job: its timeout is over") from error
            except modal.exception.OutputExpiredError as error:
                raise self._ours(modal, error) from error
            except TimeoutError:
                silence = 0
            except (modal.exception.ConnectionError, modal.exception.ServiceError) as error:
                silence += 1
                if silence > MOST_SILENCE:
                    raise self._ours(modal, error) from error
                await asyncio.sleep(LOOK_S / 2)
            except modal.Error as error:
                raise self._ours(modal, error) from error
            except Exception as error:
                raise failure_of({"error": f"{type(error).__name__}: {error}"}) from error
        if isinstance(answer, dict) and "error" in answer and "images" not in answer:
            raise failure_of(answer)
        return result_of(answer)

    async def _cancel(self, call: Any) -> None:
        await call.cancel.aio()

    def _ours(self, modal: Any, error: Exception) -> HandlerError:
        said = str(error)[:500] or type(error).__name__
        fault = modal.exception
        if isinstance(error, fault.NotFoundError):
            return NotFound(f"{self._target}: {said}", hint="is it deployed? `modal app list`")
        if isinstance(error, fault.AuthError):
            return InvalidPayload(f"Modal: {said}", hint="`modal setup` says who you are")
        if isinstance(error, fault.InputCancellation):
            return JobCancelled("the job was cancelled at Modal")
        if isinstance(error, fault.OutputExpiredError):
            return failure_of({"error": f"Modal keeps the result no more: {said}"})
        if isinstance(error, fault.ConnectionError | fault.ServiceError):
            return Unreachable(f"Modal does not answer: {said}")
        return failure_of({"error": f"{type(error).__name__}: {said}"})


def _modal() -> Any:
    """Import Modal's client.

    Raises:
        InvalidPayload: it is not installed.
    """
    try:
        import modal
    except ImportError as error:
        raise InvalidPayload(
            "modal:... needs Modal's client", hint="pip install 'comfyfn[modal]'"
        ) from error
    return modal
