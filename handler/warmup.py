"""The prompt that is run once after every boot, from a file, a URL or the environment."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from handler.engine.readahead import names_in
from handler.errors import BootFailed, HandlerError, InternalFault
from handler.job import Job
from handler.payload import parse_payload
from handler.pipeline.execute import Recorder, engine_prompt, judge_end
from handler.pipeline.run import run_pipeline
from handler.pipeline.stages import Received
from handler.transfer.records import Wanted

if TYPE_CHECKING:
    from handler.pipeline.stages import Parts, Prepared, Ran
    from handler.settings import Settings

log = logging.getLogger("comfyfn.service")


class Warmup:
    """Runs the warmup prompt, outputs discarded; before any job and after every restart."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._payload: dict[str, Any] | None = None
        self._fetching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Warmup {'set' if self.wanted else 'of nothing'}>"

    def begin(self) -> None:
        """Fetch a prompt named by URL while the engine boots: its models can be read ahead."""
        settings = self._settings
        if settings.warmup_url and not settings.warmup_json and settings.warmup_file is None:
            self._fetching = asyncio.create_task(self._fetch(), name="warmup-fetch")

    async def stop(self) -> None:
        """End what `begin` began."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    @property
    def wanted(self) -> bool:
        """Whether there is a prompt to run."""
        settings = self._settings
        return bool(settings.warmup_json or settings.warmup_file or settings.warmup_url)

    async def run(self) -> None:
        """Run it.

        Raises:
            BootFailed: it fails, and the operator does not want to go on without.
        """
        try:
            await self._run()
        except Exception as error:
            fault = error if isinstance(error, HandlerError) else InternalFault.of(error)
            if self._settings.warmup_failure == "continue":
                log.warning("the warmup failed, going on without: %s", fault.message)
                return
            raise BootFailed(
                f"the warmup failed: {fault.message}",
                hint=fault.hint or "WARMUP_FAILURE=continue boots without it",
                details=fault.envelope(),
                log_tail=fault.log_tail,
                # Whoever sends the warmup, it is the image's: no caller is at fault here.
                blame="image" if fault.blame == "caller" else fault.blame,
                retryable=fault.retryable,
            ) from error

    async def _run(self) -> None:
        if self._fetching is not None:  # if it failed, it is tried again and told
            await asyncio.gather(self._fetching, return_exceptions=True)
        await self._fetch()
        if self._payload is None:
            return
        begun = time.monotonic()
        await self.try_out(self._payload)
        log.info("warmup took %.2f s", time.monotonic() - begun)

    async def try_out(self, payload: dict[str, Any]) -> None:
        """Run a payload, its outputs discarded.

        Raises:
            HandlerError: as it ended.
        """
        job = Job(uid=f"warmup-{uuid.uuid4().hex}", id="warmup")
        received = Received(job, parse_payload(payload))
        answer = await run_pipeline(
            received, self._parts, lambda p: self._run_once(p, job), operator=True
        )
        await answer.close()

    async def _fetch(self) -> None:
        # Read once: a restart must not depend on the network.
        if self._payload is None:
            self._payload = await warmup_payload(self._settings, self._parts)
            self._parts.engine.read_ahead(names_in(self._payload))

    async def _run_once(self, prepared: Prepared, job: Job) -> Ran:
        recorder = Recorder(prepared, job, self._parts)
        prompt = engine_prompt(prepared, job.uid, self._parts)
        return judge_end(await self._parts.engine.run(prompt, recorder), recorder.ran)


async def warmup_payload(settings: Settings, parts: Parts) -> dict[str, Any] | None:
    """Read the warmup prompt: a graph, or a whole payload with the key `prompt`.

    Raises:
        BootFailed: what is set is no JSON object, or the file cannot be read.
        InputFailed: the URL cannot be fetched.
    """
    if settings.warmup_json:
        return _payload(settings.warmup_json.encode(), "WARMUP_PROMPT_JSON")
    if settings.warmup_file is not None:
        try:
            text = settings.warmup_file.read_bytes()
        except OSError as error:
            raise BootFailed(
                f"WARMUP_PROMPT_FILE cannot be read: {error}", blame="image"
            ) from error
        return _payload(text, "WARMUP_PROMPT_FILE")
    if settings.warmup_url:
        with tempfile.TemporaryDirectory(dir=parts.scratch) as folder:
            target = Path(folder) / "warmup.json"
            wanted = Wanted(
                settings.warmup_url,
                target,
                kind="file",
                max_bytes=settings.max_input_mb << 20,
                total_s=settings.fetch_timeout_s,
                quiet=True,
            )
            await parts.operator.download(wanted)
            return _payload(target.read_bytes(), "WARMUP_PROMPT_URL")
    return None


def _payload(text: bytes, source: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except ValueError as error:
        raise BootFailed(f"{source} is no JSON: {error}", blame="image") from error
    if not isinstance(value, dict):
        raise BootFailed(f"{source} is no JSON object", blame="image")
    # As comfyui-api takes it: the graph alone.
    return value if isinstance(value.get("prompt"), dict) else {"prompt": value}
