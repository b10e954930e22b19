"""Webhooks of jobs: how a job ended, as letters of the outbox.

A job with a webhook begins with a promise: the letter which says that its worker was lost, on disk
before the job is taken. How the job ends takes the place of it there. So whatever dies, and when,
there is always exactly one end to be told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from handler.errors import HandlerError, InternalFault, InvalidPayload, JobCancelled, WorkerLost
from handler.outbox.prompt_bodies import complete_blocks, failed_body, gathered, output_blocks
from handler.outbox.records import Letter, PromiseGone
from handler.pipeline.echo import echo
from handler.webhook_notes import LEGACY, POSTED, V2, lost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from pydantic import SecretStr

    from handler.outbox.outbox import Outbox
    from handler.outbox.records import Delivery
    from handler.payload import PromptRequest
    from handler.wire import Answer

log = logging.getLogger("comfyfn.webhooks")

_TRACEPARENT = re.compile(r"[\da-f]{2}-[\da-f]{32}-[\da-f]{16}-[\da-f]{2}[!-~]{0,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Promised:
    """What a job's caller is to be told, and how.

    Attributes:
        job_id: the caller's name for it; receivers know the post by it.
        uid: ours; the posts of one job are sent in order by it.
        legacy, v2: the URLs; at least one is there.
        secret: signs in place of WEBHOOK_SECRET.
        prompt: the graph without its inline media.
        extra: `{"webhook_extra": ...}`, or nothing.
        headers: of every post.
        promise_id: the outbox's.
    """

    job_id: str
    uid: str
    legacy: SecretStr | None
    v2: SecretStr | None
    secret: SecretStr | None
    prompt: Any = field(repr=False)
    extra: dict[str, Any] = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    promise_id: str = ""


class Webhooks:
    """Tells callers how their jobs ended.

    Args:
        open_outbox: called once, when the outbox is needed first.
        scratch: where large bodies are made; each is gone when its letter is in the outbox.
        folder: the outbox's: `open` has nothing to do where it is not there. None: it always has.

    Attributes:
        tried: told what came of every try, in the event loop; must not wait.
    """

    def __init__(
        self,
        open_outbox: Callable[[], Awaitable[Outbox]],
        scratch: Path,
        *,
        folder: Path | None = None,
    ) -> None:
        self._open_outbox = open_outbox
        self._scratch = scratch
        self._folder = folder
        self._outbox: Outbox | None = None
        self._opening = asyncio.Lock()
        self.tried: Callable[[Delivery], None] = lambda _: None

    def __repr__(self) -> str:
        return f"<Webhooks {self._outbox or 'not opened'}>"

    async def _opened(self) -> Outbox:
        async with self._opening:
            if self._outbox is None:
                self._outbox = await self._open_outbox()
            return self._outbox

    async def open(self) -> None:
        """Deliver what an earlier process has left."""
        if self._folder is None or await asyncio.to_thread(self._folder.exists):
            await self._opened()

    async def renew(self) -> None:
        """Leave the folder that another copy of us may have, too; its letters are taken along.

        Call it while no job is in hand. Nothing is open until it is needed next, or `open` is
        called.
        """
        async with self._opening:
            outbox, self._outbox = self._outbox, None
            if outbox is not None:
                await outbox.close()

    async def drain(self, timeout_s: float) -> int:
        """Deliver what can be in a time, in seconds; tell how many posts are left."""
        return await self._outbox.drain(timeout_s) if self._outbox is not None else 0

    async def letters(self) -> dict[str, int] | None:
        """Count the posts that are pending and given up; None while the outbox is not open."""
        if self._outbox is None:
            return None
        return {"pending": len(self._outbox.pending()), "dead": len(await self._outbox.dead())}

    async def close(self) -> None:
        """Close the outbox; what is left in it is for the next process."""
        if self._outbox is not None:
            await self._outbox.close()

    async def check(self, request: PromptRequest) -> None:
        """Find out, before a job is queued, whether its posts could be sent.

        Raises:
            InvalidPayload: a URL is none, its host does not exist, or the secret cannot be used;
                `location` is the key.
            UrlNotAllowed: the address policy refuses a URL; likewise.
        """
        for key, url in (("webhook", request.webhook), ("webhook_v2", request.webhook_v2)):
            if url is not None:
                with _located(key):
                    await (await self._opened()).check(url.get_secret_value())
        if request.webhook_secret is None:
            return
        with _located("webhook_secret"):
            if request.webhook_v2 is not None:
                url, secret = request.webhook_v2, request.webhook_secret
                await (await self._opened()).check(url.get_secret_value(), secret)
            elif request.webhook is not None:
                raise InvalidPayload("posts to `webhook` are not signed", hint="use `webhook_v2`")

    async def promise(
        self, job_id: str, uid: str, request: PromptRequest, traceparent: str = ""
    ) -> Promised | None:
        """Make sure that the caller is told an end, whatever becomes of this process.

        One of `complete`, `failed` and `withdraw` must follow.

        Args:
            traceparent: the caller's trace, sent on with every post; "" for none.

        Returns:
            None where no webhook was asked for.

        Raises:
            InvalidPayload: as by `check`.
            OutboxFull, OutboxFailed: the outbox cannot take it now.
        """
        if request.webhook is None and request.webhook_v2 is None:
            return None
        given = "webhook_extra" in request.model_fields_set
        promised = Promised(
            job_id=job_id,
            uid=uid,
            legacy=request.webhook,
            v2=request.webhook_v2,
            secret=request.webhook_secret,
            prompt=echo(request, job_id, request.prompt)["prompt"],
            extra={"webhook_extra": request.webhook_extra} if given else {},
            headers={"traceparent": traceparent} if _TRACEPARENT.fullmatch(traceparent) else {},
        )
        lost = WorkerLost("the worker that had the job ended without a word", hint="send it again")
        letter = _failure(promised, lost, with_prompt=False)
        return replace(promised, promise_id=await (await self._opened()).promise(letter))

    async def withdraw(self, promised: Promised) -> None:
        """Tell nothing: the caller was told otherwise."""
        await (await self._opened()).withdraw(promised.promise_id)

    async def complete(self, promised: Promised, answer: Answer) -> dict[str, str]:
        """Post a result; the answer may be closed when this returns.

        What cannot be posted is told as a failure. Nothing is raised but cancellation, after
        which the promise stands, or everything is posted.

        Returns:
            What became of it by the request's keys: `posted`, or `lost: <code>`.
        """
        outcomes: dict[str, str] = {}
        fault: HandlerError | None = None
        if promised.legacy is not None:
            fault = await self._tried(promised, self._post_outputs(promised, answer))
            outcomes[LEGACY] = _outcome(fault)
        if promised.v2 is not None:
            fault = await self._tried(promised, self._post_result(promised, answer))
            outcomes[V2] = _outcome(fault)
        if fault is not None:
            await self.failed(promised, _untold(promised, fault))
        return outcomes

    async def failed(self, promised: Promised, error: HandlerError) -> dict[str, str]:
        """Post how a job failed, or that it was cancelled.

        Nothing is raised but cancellation, as by `complete`.

        Returns:
            As `complete` does.
        """
        fault: HandlerError | None = None
        for with_prompt in (True, False):  # without it there is room where the promise had some
            letter = _failure(promised, error, with_prompt=with_prompt)
            fault = await self._tried(promised, self._keep(promised, letter))
            if fault is None:
                break
        return {LEGACY if promised.v2 is None else V2: _outcome(fault)}

    async def _tried(self, promised: Promised, post: Awaitable[None]) -> HandlerError | None:
        """Post, and tell what hindered it."""
        try:
            await post
        except PromiseGone:
            log.warning("job %s: its end was posted before", promised.job_id)
        except HandlerError as error:
            log.error("job %s: its webhook is not posted: %s", promised.job_id, error.message)
            return error
        except Exception as error:
            log.exception("job %s: its webhook is not posted", promised.job_id)
            return InternalFault.of(error)
        return None

    async def _keep(self, promised: Promised, letter: Letter) -> None:
        await (await self._opened()).post(letter, over=promised.promise_id)

    async def _post_result(self, promised: Promised, answer: Answer) -> None:
        blocks = complete_blocks(answer, promised.extra)
        async with gathered(blocks, self._scratch) as body:
            await self._keep(promised, _letter(promised, "prompt.complete", body))

    async def _post_outputs(self, promised: Promised, answer: Answer) -> None:
        """Post the outputs one by one; the last takes the promise's place if that is its."""
        keeps = promised.v2 is None
        last = len(answer.outputs)
        if keeps and not last:
            log.warning("job %s: it has no output to be posted", promised.job_id)
            await self.withdraw(promised)
        for number, output in enumerate(answer.outputs, 1):
            blocks = output_blocks(answer, output, promised.extra)
            async with gathered(blocks, self._scratch) as body:
                letter = _legacy_letter(promised, "output.complete", number, body)
                if keeps and number == last:
                    await self._keep(promised, letter)
                else:
                    await (await self._opened()).post(letter)


def _failure(promised: Promised, error: HandlerError, *, with_prompt: bool) -> Letter:
    told: dict[str, Any] = {"id": promised.job_id}
    if with_prompt:
        told["prompt"] = promised.prompt
    told |= error.envelope() | promised.extra
    if promised.v2 is None:
        body = failed_body({"event": "prompt.failed", **told})
        return _legacy_letter(promised, "prompt.failed", 0, body)
    kind = "prompt.cancelled" if isinstance(error, JobCancelled) else "prompt.failed"
    return _letter(promised, kind, failed_body(told, kind))


def _letter(promised: Promised, kind: str, body: bytes | Path) -> Letter:
    assert promised.v2 is not None
    return Letter(
        url=promised.v2.get_secret_value(),
        body=body,
        message_id=promised.job_id,
        kind=kind,
        order_key=promised.uid,
        secret=promised.secret,
        headers=promised.headers,
    )


def _legacy_letter(promised: Promised, kind: str, number: int, body: bytes | Path) -> Letter:
    assert promised.legacy is not None
    return Letter(
        url=promised.legacy.get_secret_value(),
        body=body,
        message_id=f"{promised.job_id}-{number}",
        kind=kind,
        order_key=promised.uid,
        signed=False,
        headers=promised.headers,
    )


def _untold(promised: Promised, fault: HandlerError) -> HandlerError:
    """Give what is told where a result cannot be: who sent it again would pay for it twice."""
    told = fault.detached()
    told.message = f"the job succeeded, but its result could not be posted: {fault.message}"
    told.hint = f"its outputs are kept for a while: GET /jobs/{quote(promised.job_id, safe='')}"
    told.retryable = False
    return told


def _outcome(fault: HandlerError | None) -> str:
    return POSTED if fault is None else lost(fault.code)


@contextlib.contextmanager
def _located(key: str) -> Iterator[None]:
    """Name the key of the request that a fault is in."""
    try:
        yield
    except HandlerError as fault:
        fault.location = fault.location or key
        raise
