"""The worker of a RunPod queue: `python -m adapters.runpod_worker`, with RunPod's own SDK.

The engine is launched first, and boots while the SDK loads. The SDK takes the first job when the
worker's fitness check is over, which is the boot: one that fails is reported, and the process ends.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adapters.logs import configure_logging
from adapters.runpod_ending import SIGNALS, Ending, leave
from adapters.worker import begin_worker
from handler.errors import BootFailed, HandlerError
from handler.settings import Settings, SettingsError

if TYPE_CHECKING:
    from adapters.runpod_loop import HandlerLoop
    from adapters.runpod_work import Work
    from adapters.worker import Begun

log = logging.getLogger("comfyfn.runpod")
_STOP_S = 20.0


def main() -> int:
    """Work until RunPod ends this worker.

    Returns:
        The exit status: 0 after a clean end, 1 when another worker is needed.
    """
    begun: Begun | None = None
    signal.signal(signal.SIGTERM, leave)
    try:
        settings = worker_settings(Settings.from_env())
        configure_logging(settings)
        begun = begin_worker(settings)
    except SettingsError as error:
        logging.basicConfig()
        return _refuse(BootFailed(str(error), blame="image"))
    except HandlerError as error:
        return _refuse(error)
    try:
        return _work(begun, settings)
    finally:
        begun.site.close()


def worker_settings(settings: Settings) -> Settings:
    """Give the settings as they are for a worker here, other names' meanings added."""
    from adapters.runpod_storage import with_bucket

    if settings.comfy_log_level:
        arguments = ("--verbose", settings.comfy_log_level, *settings.comfy_args)
        settings = replace(settings, comfy_args=arguments)
    return with_bucket(settings)


def _refuse(error: HandlerError) -> int:
    """Have RunPod told why no job can be run here: by its SDK, as of a boot that failed."""
    import runpod.serverless

    from adapters.runpod_result import failure

    _tell(error)

    async def comfyui_boots() -> None:
        raise error

    async def handle(_job: dict[str, Any]) -> dict[str, Any]:
        return failure(error)

    runpod.serverless.register_fitness_check(comfyui_boots)
    runpod.serverless.start({"handler": handle})
    return 1


def _tell(error: HandlerError) -> None:
    log.error("the worker is unhealthy: %s", error.message)
    for line in (error.log_tail or [])[-15:]:
        log.error("engine | %s", line)
    if error.hint:
        log.error("hint: %s", error.hint)


def _work(begun: Begun, settings: Settings) -> int:
    # Loaded one after the other: two threads that import at once may meet half a module.
    import runpod.serverless  # noqa: F401
    from runpod.serverless.modules.rp_logger import RunPodLogger
    from runpod.serverless.modules.worker_state import JobsProgress

    from adapters.runpod_loop import HandlerLoop
    from adapters.runpod_work import Work

    _quiet(RunPodLogger(), settings)
    jobs = settings.runpod_concurrency or settings.engine_prefetch
    ending = Ending(JobsProgress().get_job_count, settings.drain_timeout_s, jobs)
    home = HandlerLoop()
    work: Work | None = None

    async def made() -> Work:
        return Work(begun.handler(), settings, lambda: ending.cut)

    try:
        work = home.wait(made())
        _serve(home, work, begun, settings, ending)
    except asyncio.CancelledError:
        pass  # the way that Ending ends the SDK's loop
    except HandlerError as error:
        return _refuse(error)
    except SettingsError as error:
        return _refuse(BootFailed(str(error), blame="image"))
    finally:
        for number in SIGNALS:  # what is left to do has its own limits
            signal.signal(number, signal.SIG_IGN)
        if work is not None:
            _stop(home, work, ending.left_s())
        home.close()
    return ending.status


def _quiet(sdk_log: Any, settings: Settings) -> None:
    """Have the SDK log as LOG_LEVEL says; by default it logs every answer."""
    if sdk_log.level == "DEBUG" and settings.log_level not in ("trace", "debug"):
        sdk_log.level = "INFO"


def _stop(home: HandlerLoop, work: Work, drain_s: float) -> None:
    try:
        home.wait(work.close(drain_s), drain_s + _STOP_S)
    except Exception as error:
        log.error("the stop failed", exc_info=error)


def _serve(home: HandlerLoop, work: Work, begun: Begun, settings: Settings, ending: Ending) -> None:
    import runpod.serverless

    from adapters.runpod_handlers import end_when_unhealthy, handler_of, stream_of, tell_models

    # It begins at once, while the SDK comes up, and is awaited by its check and by every job.
    booting = home.submit(work.boot())
    booting.add_done_callback(lambda _: None)

    async def comfyui_boots() -> None:
        begun_s = time.monotonic()
        try:
            await home.call(work.boot())
        except Exception as error:
            if isinstance(error, HandlerError):
                _tell(error)
            # The SDK ends the process at once: nothing of ours would be put away.
            await home.call(work.close(0))
            begun.site.close()
            raise
        log.info("ready after %.1f s more", time.monotonic() - begun_s)
        if settings.volume_debug:
            home.submit(tell_models(work))
        home.submit(end_when_unhealthy(work, ending))

    config: dict[str, Any] = {
        "concurrency_modifier": ending.concurrency,
        "refresh_worker": settings.refresh_worker,
        "return_aggregate_stream": settings.runpod_stream,
    }
    if settings.runpod_stream:
        config["handler"] = stream_of(home, work, begun.site, ending, config)
    else:
        config["handler"] = handler_of(home, work, ending, config)
    if settings.serve_api_locally:
        sys.argv += ["--rp_serve_api", "--rp_api_host=0.0.0.0"]
    runpod.serverless.register_fitness_check(comfyui_boots)
    runpod.serverless.start(config)


if __name__ == "__main__":
    sys.exit(main())
